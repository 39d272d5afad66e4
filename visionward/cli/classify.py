"""The ``classify`` command."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import click

from visionward.cli.command import Command
from visionward.cli.error_group import check_interrupted
from visionward.cli.image_and_text import sort_arguments
from visionward.cli.model_options import (
    EXISTING_FILE,
    context_option,
    demo_option,
    device_options,
    kernels_option,
    pair_options,
    resolve_pair,
    vision_options,
)
from visionward.cli.progress import progress_line
from visionward.cli.standard_input import DASH, InputFile, read_bytes, read_text
from visionward.cli.wrapping import echo_lines

_DETAILS = """\
One of --image, --prompt, --response and --conversation may be -, which reads standard input: a picture's bytes, or
UTF-8 text, of which one line break at the end is left out. Empty input is an error. Images of a conversation from
standard input are relative to the working directory. A message that is nothing but a dash goes into a conversation
file.

Every picture that an image shows is judged, and unsafe wins: the frames of an animation, and what is transparent on
white and on black.

The keys of the JSON object: verdict ("safe" or "unsafe"), score, answer_mass, categories (those that the model
named: code, name, score: how probable the code was in its place), category_scores (all in force: how probable each
was as the first; null for a safe verdict without --category-scores), role ("User" or "Agent"), tiles, tokens
(prompt, decoded), timings_ms (load, preprocess, vision, prefill, decode, total), model, vision_backend ("ggml",
"onnx", "openvino"; null without an image), frames (judged, total; null without an image), warnings.

Exit codes: 0, whatever the verdict (with --exit-code: 1 if it is unsafe); 2 for errors; 130 when interrupted.
"""


def _probability(_ctx: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise click.BadParameter(f"{value} is not between 0 and 1.")
    return value


def _codes(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [code.strip() for value in values for code in value.split(",") if code.strip()]


def _with_arguments(
    arguments: tuple[str, ...],
    image: Path | Literal["-"] | None,
    prompt: str | None,
    conversation: Path | Literal["-"] | None,
) -> tuple[Path | Literal["-"] | None, str | None]:
    """The image and the text, from the options and from the arguments that need none."""
    if arguments and conversation is not None:
        raise click.UsageError("--conversation excludes an image and a text")
    named, said = sort_arguments(arguments)
    for option, value, other in (("--image", image, named), ("--prompt", prompt, said)):
        if value is not None and other is not None:
            raise click.UsageError(f"{str(other)!r} and {option} {str(value)!r} exclude each other")
    return named or image, prompt if said is None else said


def _check_input(
    image: Path | str | None, prompt: str | None, response: str | None, conversation: Path | str | None
) -> None:
    given = {"--image": image, "--prompt": prompt, "--response": response, "--conversation": conversation}
    dashes = [option for option, value in given.items() if value == DASH]
    if len(dashes) > 1:
        raise click.UsageError(f"{' and '.join(dashes)} are -, and there is one standard input: give one of them so")
    if conversation is not None and (image, prompt, response) != (None, None, None):
        raise click.UsageError("--conversation excludes --image, --prompt and --response")
    if conversation is None and image is None and prompt is None:
        needed = "--response needs the --prompt that it answers" if response is not None else None
        raise click.UsageError(needed or "there is nothing to judge: give an image, a text, or --conversation")
    if response is not None and prompt is None:
        raise click.UsageError("--response needs the --prompt that it answers")


@click.command(cls=Command, epilog=_DETAILS)
@click.argument("image_and_text", metavar="[IMAGE] [TEXT]", nargs=-1)
@pair_options
@demo_option
@click.option("--image", metavar="FILE", type=InputFile(), help="An image that the user shows.")
@click.option("--prompt", metavar="TEXT", help="What the user says; may be left out where there is an image.")
@click.option("--response", metavar="TEXT", help="What the assistant answered; then the answer is judged.")
@click.option(
    "--conversation",
    metavar="FILE.json",
    type=InputFile(),
    help="A JSON list of OpenAI messages, or an object with 'messages', instead of --image, --prompt and --response. "
    "Images are data URLs or paths relative to the file. The last message is judged.",
)
@click.option(
    "--merge-turns",
    is_flag=True,
    help="Join consecutive messages of one role in --conversation; else they are an error.",
)
@click.option(
    "--system",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="A system or developer message in --conversation: refuse is an error, drop leaves it out with a warning.",
)
@click.option(
    "--categories",
    metavar="FILE.json",
    type=EXISTING_FILE,
    help='Categories of your own: {"S1": {"name": ..., "description": ...}, ...}.  [default: the model\'s S1 to S13]',
)
@click.option(
    "--exclude", metavar="S5,S13", multiple=True, callback=_codes, help="Categories that are not in force; repeatable."
)
@click.option(
    "--threshold",
    metavar="P",
    type=float,
    default=0.5,
    show_default=True,
    callback=_probability,
    help="The verdict is unsafe from this score on, between 0 and 1.",
)
@device_options
@kernels_option
@vision_options
@context_option
@click.option(
    "--frames",
    metavar="N",
    type=click.IntRange(1, 10000),
    default=4,
    show_default=True,
    help="Of an animation, a document's pages or an icon's sizes judge at most N: the first, the last, and evenly "
    "between. Each takes as long as an image.",
)
@click.option(
    "--category-scores", is_flag=True, help="Score every category for a safe verdict too, which takes longer."
)
@click.option(
    "--imitation",
    type=click.Choice(["judge", "warn"]),
    default="judge",
    show_default=True,
    help="Text that imitates the prompt's own markers, such as 'User:': judge also judges it without them and passage "
    "by passage, and unsafe wins; warn only names it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if the verdict is unsafe.")
@click.pass_context
def classify(
    ctx: click.Context,
    /,
    model: Path | None,
    mmproj: Path | None,
    demo: bool,
    image_and_text: tuple[str, ...],
    image: Path | Literal["-"] | None,
    prompt: str | None,
    response: str | None,
    conversation: Path | Literal["-"] | None,
    merge_turns: bool,
    system: Literal["refuse", "drop"],
    categories: Path | None,
    exclude: list[str],
    threshold: float,
    frames: int,
    category_scores: bool,
    imitation: Literal["judge", "warn"],
    as_json: bool,
    exit_code: bool,
    **engine_options: Any,  # whatever the shared options are, the guard takes them under the same names
) -> None:
    """Say whether an image and a conversation are safe.

    Judges the last message: what the user says and shows, or, with --response, what the assistant answered.

    An argument that is an existing file is the image, one of several words is the text that the user says. Whatever may
    be either is refused: say --image or --prompt then.

    \b
    Examples:
        visionward classify --demo photo.jpg "What is this?"
        visionward classify --model models photo.jpg "What is this?" --json --exit-code
        visionward classify photo.jpg "What is this?" --response "It is a cat."
        visionward classify --demo --prompt - < message.txt
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    image, prompt = _with_arguments(image_and_text, image, prompt, conversation)
    _check_input(image, prompt, response, conversation)
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, demo=demo)

    from visionward.cli.faster_vision import faster_vision_lines  # noqa: PLC0415 - not needed for --help
    from visionward.cli.verdict_text import verdict_lines  # noqa: PLC0415
    from visionward.runtime.ggml.device import layers_on_gpu  # noqa: PLC0415
    from visionward.runtime.guard.conversation import Conversation  # noqa: PLC0415
    from visionward.runtime.guard.guard import Guard  # noqa: PLC0415
    from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy  # noqa: PLC0415

    policy = (DEFAULT_POLICY if categories is None else Policy.from_file(categories)).exclude(exclude)
    if conversation is None:
        judged = Conversation.from_prompt(
            read_text("--prompt") if prompt == DASH else prompt,
            read_text("--response") if response == DASH else response,
            read_bytes("--image") if image == DASH else image,
        )
    elif conversation == DASH:
        judged = Conversation.from_json(read_text("--conversation"), merge_turns=merge_turns, system=system)
    else:
        judged = Conversation.from_file(conversation, merge_turns=merge_turns, system=system)
    with (
        progress_line() as on_progress,
        Guard.load(text_gguf, mmproj_gguf, on_progress=on_progress, **engine_options) as guard,
    ):
        verdict = guard.classify(
            judged,
            policy=policy,
            threshold=threshold,
            category_scores=category_scores,
            frames=frames,
            imitation=imitation,
            on_progress=on_progress,
        )
    check_interrupted()
    if as_json:
        click.echo(json.dumps(verdict.to_dict(), allow_nan=False))
    else:
        echo_lines(verdict_lines(verdict, policy, threshold, all_scores=category_scores))
        if engine_options["vision_backend"] == "auto" and layers_on_gpu(engine_options["gpu_layers"]) == 0:
            echo_lines(faster_vision_lines(verdict, mmproj_gguf), err=True)
    if exit_code and verdict.unsafe:
        ctx.exit(1)
