"""The options that decide a verdict, shared by the commands that judge: the categories and the threshold."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from visionward.cli.model_options import EXISTING_FILE
from visionward.names import DEFAULT_FRAMES, DEFAULT_THRESHOLD, ImitationTreatment

if TYPE_CHECKING:
    from visionward.runtime.guard.policy import Policy

Command = TypeVar("Command", bound=Callable[..., Any])


def _probability(_ctx: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise click.BadParameter(f"{value} is not between 0 and 1.")
    return value


def _codes(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [code.strip() for value in values for code in value.split(",") if code.strip()]


def verdict_options(command: Command) -> Command:
    """``--categories``, ``--exclude`` and ``--threshold``."""
    command = click.option(
        "--threshold",
        metavar="P",
        type=float,
        default=DEFAULT_THRESHOLD,
        show_default=True,
        callback=_probability,
        help="P(unsafe) from which on the verdict is unsafe, between 0 and 1.",
    )(command)
    command = click.option(
        "--exclude", metavar="S5,S13", multiple=True, callback=_codes, help="Categories to leave out; repeatable."
    )(command)
    return click.option(
        "--categories",
        metavar="FILE.json",
        type=EXISTING_FILE,
        help='Your own categories: {"S1": {"name": ..., "description": ...}, ...}.  [default: the model\'s S1 to S13]',
    )(command)


def judging_options(command: Command) -> Command:
    """``--frames``, ``--category-scores`` and ``--imitation``."""
    command = click.option(
        "--imitation",
        type=click.Choice(get_args(ImitationTreatment)),
        default="judge",
        show_default=True,
        help="Text that imitates the prompt's own markers, such as 'User:'. judge: judge it also without the markers "
        "and passage by passage, and unsafe wins. warn: only add a warning.",
    )(command)
    command = click.option(
        "--category-scores", is_flag=True, help="Score every category for a safe verdict too, which takes longer."
    )(command)
    return click.option(
        "--frames",
        metavar="N",
        type=click.IntRange(1, 10000),
        default=DEFAULT_FRAMES,
        show_default=True,
        help="Judge at most N frames of an animation, pages of a document or sizes of an icon: the first, the last, "
        "and others evenly between. Each takes as long as an image.",
    )(command)


def chosen_policy(categories: Path | None, exclude: Iterable[str]) -> "Policy":
    """The policy that the options describe.

    Raises:
        PolicyError: the file cannot be used, or a code is unknown.
    """
    from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy  # noqa: PLC0415 - not needed for --help

    return (DEFAULT_POLICY if categories is None else Policy.from_file(categories)).exclude(exclude)
