"""What measuring costs: one file a subject, and the page that follows from their results."""
