"""Lightning callbacks: thin shells that say when to run and what to log."""
