"""Other measures of padding and position, and portraits of neurons."""
