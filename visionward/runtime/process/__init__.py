"""A guard in a child process, which a native crash, a memory kill or a hang ends without ending the host program."""
