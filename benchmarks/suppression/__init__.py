"""What suppression does to the number of PANs, to accuracy and to what answers rest on; see ``__main__``."""
