"""Quantization: which element type each tensor gets, and how it is made."""
