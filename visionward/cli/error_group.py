"""A click group in which every failure is one line on standard error and exit code 2, never a verdict.

If the reader of a pipe has gone, there is no line, as with other programs. The exit code is the same.
"""

import contextlib
import difflib
import errno
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn, TextIO

import click

from visionward.cli.command import Command
from visionward.cli.wrapping import Context, echo_lines
from visionward.machine.standard_streams import occupy_descriptors

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

DEBUG_VARIABLE = "VISIONWARD_DEBUG"
NO_OUTPUT = "standard output is closed, so the result cannot be written; use a file, a pipe or a terminal"


# Of names of commands: "clasify" is as similar to "classify" as 0.93, "test" to "quantize" as 0.33.
_SIMILARITY = 0.6

_interrupts: list[int] = []


class InterruptedByUser(Exception):  # noqa: N818 - an event, not an error
    """An interrupt, in a form that click leaves alone."""


class OutputGone(Exception):  # noqa: N818 - an event, not an error
    """Who read the output stopped reading, in a form that click leaves alone."""


class ErrorGroup(click.Group):
    """A group whose commands are imported when they are used, and whose errors are single lines.

    Args:
        lazy: command name to (module, first sentence of its help). The module has the command under its own name.
        subjects: the commands by what they are for, for the help.
    """

    context_class = Context

    def __init__(
        self, *args: Any, lazy: dict[str, tuple[str, str]], subjects: dict[str, tuple[str, ...]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy
        self.subjects = subjects

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands, in the order of first use."""
        return [name for names in self.subjects.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command."""
        if cmd_name not in self.lazy:
            return None
        command = getattr(import_module(self.lazy[cmd_name][0]), cmd_name.replace("-", "_"))
        if not isinstance(command, Command):
            raise TypeError(f"{cmd_name} is not a visionward.cli.command.Command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the ones whose names are similar."""
        name = args[0]
        if name in self.lazy or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"unknown command {name!r}; {self._hint(name)}", ctx)

    def _hint(self, name: str) -> str:
        similar = difflib.get_close_matches(name, self.lazy, 1, _SIMILARITY)
        if similar:
            return f"did you mean {similar[0]!r}?"
        if os.path.isfile(name):  # noqa: PTH113 - pathlib raises for what cannot be a name
            return f"to classify an image: `visionward classify {shlex.quote(name)}`"
        return "`visionward --help` lists the commands"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, which matter more, before the options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands by subject, without importing them."""
        width = max(map(len, self.lazy))
        for subject, names in self.subjects.items():
            with formatter.section(subject):
                # All sections have their second column at the same place.
                formatter.write_dl([(f"{name:<{width}}", self.lazy[name][1]) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Exceptions that click would handle itself are replaced by our own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise InterruptedByUser from interrupt
        except EOFError as error:
            raise RuntimeError(f"unexpected end of input ({error})") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise OutputGone from error
            raise

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run as a program: 0 for success, 2 for every error, 130 for an interrupt; commands may exit otherwise."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _remember_interrupts()
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            _never_fail_to_encode(stream)
        with warnings.catch_warnings():
            if not _debugging():
                warnings.simplefilter("ignore")
            return self._exit_with(lambda: super(ErrorGroup, self).main(args, prog_name, complete_var, False, **extra))

    def _exit_with(self, run: Callable[[], Any]) -> NoReturn:
        try:
            code = run()
            check_interrupted()
            sys.stdout.flush()
        except (InterruptedByUser, KeyboardInterrupt, click.Abort):
            _fail("interrupted", EXIT_INTERRUPTED)
        except click.ClickException as error:
            _fail(f"error: {error.format_message()}")
        except (OutputGone, BrokenPipeError, SystemExit):
            # Click (for --help) and rich exit with 1 if the reader has gone, which means unsafe in other commands.
            _fail(None)
        except Exception as error:  # noqa: BLE001 - whatever happened, it must not end as a verdict
            _fail(f"error: {_describe(error)}")
        sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Replace closed standard streams, so that a file opened later does not get their numbers; refuse closed output."""
    without_output = sys.stdout is None
    occupy_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the program ends
    if without_output:
        _fail(f"error: {NO_OUTPUT}")


def _remember_interrupts() -> None:
    """Record every interrupt: Python only prints one that arrives in a destructor or a callback, and goes on."""
    _interrupts.clear()
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _interrupts.append(number)
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """Check for an interrupt that Python swallowed, before a verdict is printed.

    Raises:
        InterruptedByUser: if there was one.
    """
    if _interrupts:
        raise InterruptedByUser


def _never_fail_to_encode(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _debugging() -> bool:
    return bool(os.environ.get(DEBUG_VARIABLE)) or logging.getLogger().isEnabledFor(logging.DEBUG)


def _describe(error: Exception) -> str:
    from visionward.errors import VisionwardError  # noqa: PLC0415 - this file is imported for --help too

    if isinstance(error, VisionwardError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror or error)
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return f"{type(error).__name__}: {error} (unexpected; set {DEBUG_VARIABLE}=1 to see where)"


def one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def _fail(message: str | None, code: int = EXIT_ERROR) -> NoReturn:
    """End the program, with a message on standard error unless it is None."""
    with contextlib.suppress(OSError, ValueError):
        if _debugging():
            traceback.print_exc()
        if message is not None:
            echo_lines([one_line(message)], err=True)
    # Unwritten output of a closed stream would raise again when Python exits.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.exit(code)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
