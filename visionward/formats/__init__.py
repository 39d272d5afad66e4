"""Files as bytes: what is in them, and whether it can be."""
