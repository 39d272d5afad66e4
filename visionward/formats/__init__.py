"""File formats: reading, checking and writing files, without loading a model."""
