"""Comparison: what a quantized guard costs in missed unsafe content and false alarms, and what it saves."""
