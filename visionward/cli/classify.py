"""The ``classify`` command."""

import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from visionward.cli.classify_input import ClassifyInput, PathOrDash
from visionward.cli.command import Command
from visionward.cli.error_group import check_interrupted
from visionward.cli.file_completion import complete_file
from visionward.cli.model_options import (
    demo_option,
    engine_options,
    pair_options,
    resolve_pair,
)
from visionward.cli.progress import progress_line
from visionward.cli.standard_input import InputFile
from visionward.cli.verdict_options import chosen_policy, judging_options, verdict_options
from visionward.cli.wrapping import echo_lines
from visionward.names import ImitationTreatment, SystemTreatment

_DETAILS = """\
One of --image, --prompt, --response and --conversation may be -, which reads standard input: an image's bytes, or UTF-8
text, of which one line break at the end is removed. Empty input is an error. Images of a conversation from standard
input are relative to the working directory. To judge a message that is a single dash, use a conversation file.

Every picture of an image is judged, and unsafe wins: the frames of an animation, and a transparent image on white and
on black.

The keys of the JSON object: verdict ("safe" or "unsafe"), score (P(unsafe)), answer_mass (the probability of safe and
unsafe together), categories (those that the model named, each with code, name and score: the probability of the code at
its position), category_scores (of every category in force, the probability that it is named first; null for a safe
verdict without --category-scores), role ("User" or "Agent"), tiles, preferred_tiles (without --max-tiles), tokens
(prompt, decoded), timings_ms (load, preprocess, vision, prefill, decode, total), model, vision_backend ("ggml", "onnx",
"openvino"; null without an image), devices (text, vision and cross, the latter two null without an image; gpu_layers of
layers; memory_bytes of the GPUs), frames (judged, total; null without an image), first_look (score, answer_mass, tiles;
null unless --max-tiles auto judged again), warnings.

Exit codes: 0 whatever the verdict (with --exit-code: 1 if it is unsafe); 2 for errors; 130 when interrupted.
"""


@click.command(cls=Command, epilog=_DETAILS)
@click.argument("image_and_text", metavar="[IMAGE] [TEXT]", nargs=-1, shell_complete=complete_file)
@pair_options
@demo_option
@click.option("--image", metavar="FILE", type=InputFile(), help="An image that the user shows.")
@click.option("--prompt", metavar="TEXT", help="What the user says; optional with an image.")
@click.option("--response", metavar="TEXT", help="What the assistant answers, which is then judged.")
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
    help="Join consecutive messages of one role in --conversation, which are an error otherwise.",
)
@click.option(
    "--system",
    type=click.Choice(get_args(SystemTreatment)),
    default="refuse",
    show_default=True,
    help="System and developer messages in --conversation. refuse: an error. drop: leave them out, with a warning.",
)
@verdict_options
# Copying the weights takes longer than one classification gains by it.
@partial(engine_options, kernels="plain")
@judging_options
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
    image: PathOrDash,
    prompt: str | None,
    response: str | None,
    conversation: PathOrDash,
    merge_turns: bool,
    system: SystemTreatment,
    categories: Path | None,
    exclude: list[str],
    threshold: float,
    frames: int,
    category_scores: bool,
    imitation: ImitationTreatment,
    as_json: bool,
    exit_code: bool,
    **engine_options: Any,  # whatever the shared options are, the guard takes them under the same names
) -> None:
    """Say whether an image and a conversation are safe.

    Judges the last message: what the user says and shows, or, with --response, what the assistant answers.

    An argument that is an existing file is the image. An argument of several words is the text that the user says.
    Anything else is refused, so that a missing photo is never judged as text: use --image and --prompt.

    \b
    Examples:
        visionward classify --demo photo.jpg "What is this?"
        visionward classify --model models photo.jpg "What is this?" --json --exit-code
        visionward classify photo.jpg "What is this?" --response "It is a cat."
        visionward classify --demo --prompt - < message.txt
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    given = ClassifyInput.of(image_and_text, image, prompt, response, conversation)
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, demo=demo)

    from visionward.cli.faster_vision import faster_vision_lines  # noqa: PLC0415 - not needed for --help
    from visionward.cli.verdict_text import verdict_lines  # noqa: PLC0415
    from visionward.runtime.guard.guard import Guard  # noqa: PLC0415

    policy = chosen_policy(categories, exclude)
    judged = given.read(merge_turns=merge_turns, system=system)
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
        if engine_options["vision_backend"] == "auto" and verdict.devices.on_cpu:
            echo_lines(faster_vision_lines(verdict, mmproj_gguf), err=True)
    if exit_code and verdict.unsafe:
        ctx.exit(1)
