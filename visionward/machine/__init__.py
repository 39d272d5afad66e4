"""The machine: processor, memory, load, and processes."""
