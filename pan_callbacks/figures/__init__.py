"""What is drawn, with matplotlib alone."""
