"""The machine: processor, memory, load, processes and installed packages."""
