r"""Whole classifications of visionward and its peers, taking turns, and their ratios.

    python -m benchmarks.against_peers results.jsonl --rounds 3 --text TEXT.gguf --mmproj MMPROJ.gguf \
        --checkpoint FULL --checkpoint transformers.fp32=TEN_LAYERS --checkpoint mistralrs=TEN_LAYERS \
        --plain PLAIN.gguf --python mistralrs=PEERS/bin/python \
        visionward transformers.bf16 mistralrs libllama

A row is a contestant, for some with a variant, and after an @ what the processor may be used for
(benchmarks/peers/cpu.py): visionward, visionward.ggml, visionward.onnx, visionward.openvino (these three also with
-packed kernels), transformers.bf16, transformers.fp32, mistralrs, libllama; for instance
visionward.openvino@AVX512_CORE_VNNI. The rows of a round run one after the other, in the given order, each in a process
of its own. Every result is written at once: the same command goes on where it was stopped, more rounds add to it, and
`--table` only prints. Ratios are of results of the same round; those of peers with fewer text layers than visionward's
are extrapolated by the number of layers, and marked.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import cpu

ROOT = Path(__file__).resolve().parent.parent
OURS = "visionward"
VARIANTS = {
    OURS: ("", "ggml", "onnx", "openvino", "auto", "ggml-packed", "onnx-packed", "openvino-packed"),
    "transformers": ("bf16", "fp32"),
    "mistralrs": ("",),
    "libllama": ("",),
}
EXTRAPOLATED = "*"
_GIB = 2**30


@dataclass(frozen=True)
class Row:
    """Who takes part, and what it may use."""

    name: str

    @property
    def limit(self) -> str:
        """What it may use."""
        return self.name.partition("@")[2] or "default"

    @property
    def variant(self) -> str:
        """Its variant; empty where it has none."""
        return self.name.partition("@")[0].partition(".")[2]

    @property
    def contestant(self) -> str:
        """Whose script it runs."""
        return self.name.partition("@")[0].partition(".")[0]

    def choose(self, choices: dict[str, str]) -> str | None:
        """What was given for this row: for its whole name, its contestant and variant, its contestant, or all."""
        for name in (self.name, self.name.partition("@")[0], self.contestant, ""):
            if name in choices:
                return choices[name]
        return None


def row(name: str) -> Row:
    """A row from its name, for argparse."""
    made = Row(name)
    if made.variant not in VARIANTS.get(made.contestant, ()) or made.limit not in cpu.LIMITS:
        raise argparse.ArgumentTypeError(f"{name} is no row")
    if made.contestant == "mistralrs" and made.limit != "default":
        raise argparse.ArgumentTypeError(f"{name}: mistral.rs cannot be restricted")
    return made


def choice(text: str) -> tuple[str, str]:
    """NAME=VALUE; a value alone is for all rows."""
    name, equals, value = text.partition("=")
    return (name, value) if equals else ("", name)


def command(which: Row, options: argparse.Namespace) -> list[str]:
    """How a contestant is started.

    Raises:
        SystemExit: if an option that it needs is missing.
    """
    needs = {
        OURS: {"--text": options.text, "--mmproj": options.mmproj},
        "transformers": {"--checkpoint": options.checkpoint},
        "mistralrs": {"--checkpoint": options.checkpoint},
        "libllama": {"--plain": options.plain},
    }[which.contestant]
    arguments: list[object] = ["--prompt", options.prompt, "--limit", which.limit, "--threads", options.threads]
    arguments += ["--runs", options.runs, "--images", *options.images]
    for option, choices in needs.items():
        given = which.choose(dict(choices))
        if given is None:
            raise SystemExit(f"{which.name} needs {option}.")
        arguments += [option, Path(given).resolve()]
    tower = which.choose(dict(options.onnx_tower)) if which.contestant == OURS else None
    arguments += ["--onnx-tower", Path(tower).resolve()] if tower else []
    if which.variant:
        variant, _, kernels = which.variant.partition("-")
        arguments += [{OURS: "--vision-backend", "transformers": "--dtype"}[which.contestant], variant]
        arguments += ["--kernels", kernels] if kernels else []
    if not options.warm_up:
        arguments.append("--no-warm-up")
    python = which.choose(dict(options.python)) or sys.executable
    module = f"benchmarks.peers.{which.contestant}_contestant"
    start = [python, "-m", module, *(str(argument) for argument in arguments)]
    if options.cpuid_mask is None or (which.contestant, which.limit) != (OURS, "AVX2"):
        return start
    return [python, "-m", "benchmarks.peers.cpuid_mask", str(options.cpuid_mask.resolve()), *start]


def run(arguments: list[str]) -> dict[str, Any]:
    """Run a contestant in a process of its own; its record, or what went wrong."""
    environment = {name: value for name, value in os.environ.items() if name not in cpu.SWITCHES}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        # From the repository's root, so that the scripts are found by any Python.
        ended = subprocess.run(
            arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            check=False,
        )  # fmt: skip
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
    seconds = round(time.perf_counter() - start, 1)
    if ended.returncode:
        reason = last[0] if last else "it said nothing"
        return {"error": f"exit {ended.returncode}: {reason}", "process_s": seconds}
    return {**json.loads(ended.stdout), "process_s": seconds}


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def take_turns(options: argparse.Namespace) -> bool:
    """Run what is missing; whether all went well."""
    rows = [which for which in options.rows if command(which, options)]  # which ends the program if one cannot run
    done = {(one["run"], one["round"], one["row"]) for one in read_results(options.results) if "error" not in one}
    good = True
    for number in range(1, options.rounds + 1):
        for which in rows:
            if (options.run, number, which.name) in done:
                continue
            record = {"run": options.run, "round": number, "row": which.name, **run(command(which, options))}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            said = record.get("error") or f"{record['process_s']} s"
            print(f"round {number}, {which.name}: {said}", file=sys.stderr, flush=True)
            good = good and "error" not in record
    return good


@dataclass(frozen=True)
class Seconds:
    """A time, and whether it was extrapolated."""

    value: float
    extrapolated: bool

    def __str__(self) -> str:
        return f"{self.value:.2f}{EXTRAPOLATED if self.extrapolated else ''}"


def layer_factor(peer: dict[str, Any], ours: dict[str, Any]) -> float:
    """By what a peer's text time is multiplied to be one of as many layers as visionward's.

    Raises:
        ValueError: if the two have other shares of cross-attention layers.
    """
    has, wanted = peer["layers"], ours["layers"]
    if has["self"] * wanted["cross"] != has["cross"] * wanted["self"]:
        raise ValueError(f"{peer['row']} has layers {has}, visionward {wanted}: no extrapolation from these.")
    return float(wanted["self"] / has["self"])


def whole(peer: dict[str, Any], ours: dict[str, Any], tiles: str) -> Seconds:
    """A peer's whole classification with as many layers as visionward has."""
    stages, factor = peer["images"][tiles], layer_factor(peer, ours)
    if factor == 1:
        return Seconds(stages["whole_s"], extrapolated=False)
    if "text_s" in stages:
        return Seconds(stages["vision_s"] + factor * stages["text_s"], extrapolated=True)
    # Read without an image, the text goes through the self-attention layers alone. A cross-attention layer counts as
    # one of them, which is less than it takes.
    layer = peer["text_alone_s"] / peer["layers"]["self"]
    missing = sum(ours["layers"].values()) - sum(peer["layers"].values())
    return Seconds(stages["whole_s"] + missing * layer, extrapolated=True)


def pairs(results: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Peers' and visionward's results of the same round that may be compared."""
    good = [one for one in results if "error" not in one]
    for peer in good:
        for ours in good:
            together = (peer["run"], peer["round"], peer["limit"]) == (ours["run"], ours["round"], ours["limit"])
            if together and peer["contestant"] != OURS and ours["contestant"] == OURS:
                yield peer, ours


def _label(record: dict[str, Any]) -> str:
    free = " (not restricted)" if record["unrestricted"] and record["limit"] != "default" else ""
    engine = f", tower in {record['backend']}" if "backend" in record else ""
    return f"{record['row']}, {record['model']}{engine}{free}"


def _grouped(
    entries: Iterable[tuple[tuple[str, ...], tuple[Any, ...]]],
) -> dict[tuple[str, ...], list[tuple[Any, ...]]]:
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for key, value in entries:
        groups.setdefault(key, []).append(value)
    return groups


def table(names: tuple[str, ...], lines: Iterable[Iterable[str]]) -> str:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *rows]) if rows else "(none)"


def _compared(values: list[tuple[Any, ...]]) -> list[str]:
    """Medians of a peer and of visionward, and the ratio: the median of the rounds', and their range."""
    theirs, ours = [one[0] for one in values], [one[1] for one in values]
    ratios = sorted(one.value / mine for one, mine in values)
    middle = Seconds(statistics.median(one.value for one in theirs), any(one.extrapolated for one in theirs))
    mark = EXTRAPOLATED if middle.extrapolated else ""
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return [
        str(middle),
        f"{statistics.median(ours):.2f}",
        f"{statistics.median(ratios):.2f}{mark}",
        spread,
        str(len(values)),
    ]


def whole_table(results: list[dict[str, Any]]) -> str:
    """Whole classifications: peers against visionward."""
    entries = (
        ((tiles, _label(peer), _label(ours)), (whole(peer, ours, tiles), ours["images"][tiles]["whole_s"]))
        for peer, ours in pairs(results)
        for tiles in ours["images"]
        if tiles in peer["images"]
    )
    lines = ([*key, *_compared(values)] for key, values in sorted(_grouped(entries).items()))
    return table(("tiles", "peer", OURS, "peer s", f"{OURS} s", "peer takes times", "range", "rounds"), lines)


def prefill_table(results: list[dict[str, Any]]) -> str:
    """The text alone: a plain Llama of as many layers against visionward's."""

    def entries() -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
        for peer, ours in pairs(results):
            if "text_s" not in peer:
                continue
            if sum(peer["layers"].values()) != sum(ours["layers"].values()):
                raise ValueError(f"{peer['row']} has layers {peer['layers']}, visionward {ours['layers']}.")
            for tiles, stages in ours["images"].items():
                key = (tiles, _label(peer), _label(ours))
                yield key, (Seconds(peer["text_s"], extrapolated=False), stages["text_s"])

    lines = ([*key, *_compared(values)] for key, values in sorted(_grouped(entries()).items()))
    return table(("tiles", "peer", OURS, "peer s", f"{OURS} s", "peer takes times", "range", "rounds"), lines)


def stage_table(results: list[dict[str, Any]]) -> str:
    """Medians of what every row measured itself, with the layers that it had."""
    entries = (
        ((_label(one), f"{one['layers']['self']} + {one['layers']['cross']}", tiles), (one, stages))
        for one in results
        if "error" not in one
        for tiles, stages in (one["images"] or {"-": {"text_s": one.get("text_s")}}).items()
    )

    def middle(values: list[Any], form: str, scale: float = 1) -> str:
        known = [value / scale for value in values if value is not None]
        return format(statistics.median(known), form) if known else ""

    def line(key: tuple[str, ...], values: list[tuple[Any, ...]]) -> list[str]:
        stages = [
            middle([one.get(name) for _, one in values], ".2f") for name in ("vision_s", "text_s", "whole_s", "again_s")
        ]
        sizes = ("peak_bytes", "peak_anonymous_bytes", "peak_file_bytes")
        memory = [middle([record["memory"][name] for record, _ in values], ".2f", _GIB) for name in sizes]
        return [*key, *stages, middle([record["load_s"] for record, _ in values], ".1f"), *memory]

    names = ("row", "layers", "tiles", "vision s", "text s", "whole s", "same image again s", "load s")
    lines = (line(key, values) for key, values in sorted(_grouped(entries).items()))
    return table((*names, "peak GiB", "anonymous GiB", "file GiB"), lines)


def limits_table(results: list[dict[str, Any]]) -> str:
    """What the libraries say that they use."""
    lines = {
        (
            _label(one),
            "; ".join(f"{name}: {said}" for name, said in one["says"].items() if said),
            one["unrestricted"] or "",
        )
        for one in results
        if "error" not in one
    }
    return table(("row", "says that it uses", "not restricted because"), sorted(lines))


def report(results: list[dict[str, Any]]) -> str:
    """Everything in Markdown."""
    failed = sorted({(one["row"], one["error"]) for one in results if "error" in one})
    parts = [
        "## Whole classifications (vision and text, first-token verdict)", whole_table(results),
        f"{EXTRAPOLATED} extrapolated from fewer text layers; embedding and head are counted with the layers.",
        "## Prefill of the same tokens, plain Llama of as many layers", prefill_table(results),
        "## Stages, medians", stage_table(results),
        "## Instruction sets", limits_table(results),
    ]  # fmt: skip
    return "\n\n".join([*parts, *(["## Failed", table(("row", "error"), failed)] if failed else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines; added to")
    parser.add_argument("rows", type=row, nargs="*", help="in the order of their turns")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", default="1", help="a name; results of different runs are not compared")
    parser.add_argument("--prompt", type=Path, help="made from the first checkpoint if missing")
    parser.add_argument("--tokens", type=int, default=254, help="of a prompt that is made")
    for name in ("text", "mmproj", "onnx-tower", "plain", "checkpoint", "python"):
        parser.add_argument(f"--{name}", type=choice, action="append", default=[], metavar="[ROW=]PATH")
    parser.add_argument(
        "--cpuid-mask", type=Path, help="folder for copies of ONNX Runtime and OpenVINO, which AVX2 rows need"
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="numbers of tiles")
    parser.add_argument("--runs", type=int, default=1, help="measured runs in each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    parser.add_argument("--table", action="store_true", help="print the tables of what there is, run nothing")
    options = parser.parse_intermixed_args()
    good = True
    if not options.table:
        options.prompt = (options.prompt or options.results.with_suffix(".prompt.json")).resolve()
        if not options.prompt.exists():
            make_prompt(options)
        good = take_turns(options)
    results = read_results(options.results)
    print(report(results))
    if not good:
        sys.exit("some rows failed: see the end of the report.")


def make_prompt(options: argparse.Namespace) -> None:
    """Write the prompt that all get."""
    from benchmarks.peers.inputs import write_inputs  # noqa: PLC0415 - a table alone needs no visionward

    if not options.checkpoint:
        raise SystemExit("a prompt is made from a checkpoint's tokenizer: give --checkpoint or --prompt.")
    write_inputs(Path(options.checkpoint[0][1]), options.prompt, options.tokens)


if __name__ == "__main__":
    main()
