"""Run a function in a new Python process: a crash ends only that process, and the caller's script is not run again.

Processes of multiprocessing import the caller's main module first, so a script without
``if __name__ == "__main__":`` would start itself over and over. Here a new interpreter imports only what the function
needs. It reads the function from standard input and sends messages over the descriptor of standard output. It is never
forked, because the threads of a native library would be missing. It ends when the process that started it ends.

A frozen program is not an interpreter. It starts itself with one argument, and ``freeze_support`` runs
the function instead of the program. Without that call no process is started, because the program would run again. It
may also name an interpreter that has the same packages with ``multiprocessing.set_executable``.
"""

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import spawn
from typing import IO, Any, BinaryIO

from visionward.machine.frozen import frozen_program
from visionward.machine.standard_streams import occupy_descriptors

# Before anything else is imported, the working directory, which -c puts first, is removed from the search path.
_BOOTSTRAP = """\
import sys
sys.path[:] = [place for place in sys.path if place]
import pickle
with open(0, "rb", closefd=False) as stream:
    sys.path[:] = pickle.load(stream)
    from visionward.machine.python_process import serve_parent
    serve_parent(stream)
"""
# The only argument of a frozen program that was started to be a child process.
_CHILD_ARGUMENT = "--visionward-child-process"
# Anything that the interpreter prints at its start comes before this line.
_MARK = b"visionward: messages follow\n"
# On Windows, waiting without a timeout cannot be interrupted.
_WAIT_S = 0.2
_PARENT_CHECK_S = 0.5
# In front of each message to the child.
_SIZE = struct.Struct("<Q")


def exit_text(code: int | None) -> str:
    """How a process ended, by its exit code: ``SIGSEGV``, ``exit code 3``; ``still running`` for None."""
    if code is None:
        return "still running"
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    # What Windows calls an exception code is known by its hexadecimal digits.
    return f"exit code 0x{code:08X}" if code > 0x7FFF_FFFF else f"exit code {code}"


class Sender:
    """The child's end: sends messages to the parent."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        # The native library logs from its own threads.
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send anything that can be pickled.

        Raises:
            BrokenPipeError: if the parent is gone.
        """
        data = pickle.dumps(message)
        with self._lock:
            self._stream.write(data)
            self._stream.flush()


class Connection(Sender):
    """The child's end, with the messages of the process that started it.

    Attributes:
        on_message: gets each message that was sent with ``PythonProcess.send``, on a thread of its own. Unless the job
            sets it, messages are kept for ``receive``.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.on_message: Callable[[Any], None] = self._received.put

    def receive(self) -> Any:
        """The next message. Waits for it."""
        return self._received.get()


class PythonProcess:
    """A process that runs ``job(*arguments, connection)``.

    Args:
        job: a function of a module that can be imported.
        arguments: anything that can be pickled.
        errors: where standard error and everything that the process prints go; None for this process's standard error.
        descriptors: file descriptors that the process gets under the same numbers. Not on Windows.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(
        self,
        job: Callable[..., None],
        arguments: tuple[Any, ...],
        errors: IO[Any] | int | None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        request = pickle.dumps(_search_path()) + pickle.dumps((os.getpid(), job, arguments))
        self._received: queue.SimpleQueue[tuple[object, Exception | None]] = queue.SimpleQueue()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and code of ours
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=descriptors,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        try:
            self._reader.start()
            # If the process is dead already, receive() reports it.
            with contextlib.suppress(OSError):
                self._stdin.write(request)
                self._stdin.flush()
        except BaseException:
            self.close()
            raise

    @property
    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise AssertionError("the process was started with pipes")
        return self._process.stdin

    def _read(self) -> None:
        """Read messages until the process ends, so that it never blocks on a full pipe."""
        stream = self._process.stdout
        if stream is None:
            raise AssertionError("the process was started with pipes")
        try:
            while not stream.readline().endswith(_MARK):
                if not stream.peek(1):  # type: ignore[attr-defined]  # Popen's pipes are buffered readers
                    raise EOFError  # noqa: TRY301 - as pickle does
            while True:
                self._received.put((pickle.load(stream), None))  # noqa: S301 - our own process wrote it
        except (EOFError, pickle.UnpicklingError, OSError, ValueError):
            self._received.put((None, EOFError("the process has ended")))
        except Exception as error:  # noqa: BLE001 - an error in unpickling is raised by receive()
            self._received.put((None, error))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send anything that can be pickled to the job's ``Connection.receive``, after the job's first message.

        One thread at a time may call this.

        Raises:
            OSError: if the process has ended.
        """
        data = pickle.dumps(message)
        self._stdin.write(_SIZE.pack(len(data)) + data)
        self._stdin.flush()

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message.

        Raises:
            TimeoutError: if none arrived in this time.
            EOFError: if the process has ended and all messages were received.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _WAIT_S if deadline is None else min(_WAIT_S, max(0.0, deadline - time.monotonic()))
            try:
                message, error = self._received.get(timeout=left)
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError from None
                continue
            if error is not None:
                self._received.put((None, error))  # for the next call
                raise error
            return message

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit code, negative for a signal; None if the process has not ended in this time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kill the process, and wait for it."""
        self._process.kill()
        self._process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class FrozenSupport:
    """Whether this frozen program calls ``freeze_support``."""

    called = False


def freeze_support() -> None:
    """Let a frozen program have child processes. Call it in the main module, before any other work.

    In a child process, it runs what the child is for, and ends the process. Elsewhere it returns at once. PyInstaller
    calls it through visionward's hooks. In a program that is not frozen it has no effect.
    """
    FrozenSupport.called = True
    if sys.argv[1:] != [_CHILD_ARGUMENT] or frozen_program() is None:
        return
    with open(0, "rb", closefd=False) as stream:
        sys.path[:] = pickle.load(stream)  # noqa: S301 - the parent wrote it
        serve_parent(stream)
    sys.exit()


def _command() -> list[str]:
    """The command that starts a child process.

    Raises:
        OSError: if this is a frozen program without ``freeze_support``, or no interpreter is known.
    """
    named = spawn.get_executable()
    interpreter = os.fsdecode(named) if named else ""
    program = frozen_program()
    if program is not None and interpreter in {"", sys.executable, program}:
        if not FrozenSupport.called:
            raise OSError(
                "this frozen program would run again: call visionward.freeze_support() at the start of its main module"
            )
        return [program, _CHILD_ARGUMENT]
    if not interpreter:
        raise OSError("this program is not a Python interpreter; name one with multiprocessing.set_executable")
    return [interpreter, *_options(), "-c", _BOOTSTRAP]


def _options() -> list[str]:
    """The interpreter's options: the child must not read variables or folders that this process did not read."""
    flags = sys.flags
    given = {
        "-I": flags.isolated,
        "-E": flags.ignore_environment,
        "-s": flags.no_user_site,
        "-P": getattr(flags, "safe_path", False),
        "-S": flags.no_site,
        "-B": sys.dont_write_bytecode,
    }
    options = [option for option, on in given.items() if on]
    return [*options, *["-O"] * flags.optimize, "-X", f"utf8={flags.utf8_mode}"]


def _search_path() -> list[str]:
    """This process's module search path, made absolute for a child with another working directory."""
    places = [place for place in sys.path if isinstance(place, str)]
    with contextlib.suppress(OSError):  # the working directory was removed
        return [os.path.abspath(place) for place in places]  # noqa: PTH100 - "" is the working directory
    return [place for place in places if os.path.isabs(place)]  # noqa: PTH117


def serve_parent(stream: BinaryIO) -> None:
    """In the child: read the job and run it.

    Args:
        stream: standard input, after the search path.
    """
    # The parent handles interrupts and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    occupy_descriptors()
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _prepare_to_crash()
    parent, job, arguments = pickle.load(stream)  # noqa: S301 - the parent wrote it
    connection = Connection(messages)
    threading.Thread(target=_read_messages, args=(connection,), daemon=True).start()
    if sys.platform != "win32":
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    messages.write(_MARK)
    messages.flush()
    job(*arguments, connection)


def _prepare_to_crash() -> None:
    """Write no core file, start no debugger, show no dialog."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if sys.platform == "win32":
        ctypes.windll.kernel32.SetErrorMode(0x0001 | 0x0002)
    else:
        import resource  # noqa: PLC0415 - not on Windows

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_messages(connection: Connection) -> None:
    """Take the parent's messages. Standard input ends when no process holds its other end, and so does this process.

    The descriptor is read, because a thread that waits in a stream would keep the main thread from closing it.
    """
    try:
        while True:
            (size,) = _SIZE.unpack(_read_bytes(_SIZE.size))
            connection.on_message(pickle.loads(_read_bytes(size)))  # noqa: S301 - the parent wrote it
    finally:
        os._exit(1)


def _read_bytes(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _end_after(parent: int) -> None:
    """End with the parent even if a forked copy of it holds the other end of standard input."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
