"""Takes AMX from this process, whatever its libraries would do: Linux gives it only to processes that ask.

A filter makes the system refuse the question, arch_prctl(ARCH_REQ_XCOMP_PERM), as a processor without AMX would.
Libraries that look then choose other kernels, and one that does not look ends by a signal at its first tile
instruction (Documentation/arch/x86/xstate.rst of the Linux kernel): a process that ran to its end used no AMX.
"""

import ctypes
import errno
import platform
import struct
import sys

_SYS_ARCH_PRCTL, _SYS_SECCOMP = 158, 317
_ARCH_GET_XCOMP_PERM, _ARCH_REQ_XCOMP_PERM = 0x1022, 0x1023
_TILE_DATA = 1 << 18
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Berkeley packet filter: what it loads from the call's number and first argument, and where it goes on.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FILTER = (
    (_LOAD, 0, 0, 0),
    (_JUMP_IF_EQUAL, 0, 3, _SYS_ARCH_PRCTL),
    (_LOAD, 0, 0, 16),
    (_JUMP_IF_EQUAL, 0, 1, _ARCH_REQ_XCOMP_PERM),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def deny() -> None:
    """Refuse AMX to this process from now on, for good; before any library is loaded that asks for it.

    Raises:
        RuntimeError: if the system cannot do that, or the process has AMX already.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise RuntimeError("AMX can only be refused to a process on Linux.")
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
    program = _Program(len(_FILTER), ctypes.addressof(code))
    refused = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        _SYS_SECCOMP, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)
    )
    if refused:
        raise RuntimeError(f"the system takes no filter: error {ctypes.get_errno()}.")
    if granted():
        raise RuntimeError("this process has AMX already.")


def granted() -> bool:
    """Whether this process may use AMX."""
    permitted = ctypes.c_uint64()
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(permitted)) == 0 and bool(
        permitted.value & _TILE_DATA
    )
