"""Runs before the program: a process that was started as a child does its job here, and the program does not run."""

from visionward.machine.python_process import freeze_support

freeze_support()
