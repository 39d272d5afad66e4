"""Quantization of text and mmproj files."""
