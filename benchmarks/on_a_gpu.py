r"""Whole classifications on a GPU: visionward against Transformers bf16 on the same GPU, taking turns in one command.

    python benchmarks/full_size_checkpoint.py FULL
    python -m benchmarks.on_a_gpu results.jsonl --checkpoint FULL --models FOLDER --device CUDA0 --rounds 3

It converts the checkpoint to f16, q8_0 and q4_k_m (with an mmproj file of type q8_0) in FOLDER unless they are there:
21, 11 and 8 GB. Each type is measured with two products and with flash attention in all layers, with images of 1 and 4
tiles. A row that a backend does not support fails, and the others go on. Every result is written at once: the same
command goes on where it was stopped, and `--table` only prints. `--device CPU` tries it out.

TFLOP/s counts the operations that a classification needs: products and attention of the real tiles and of the prompt.
Padding, which Transformers computes for every image, does not count. The peak is that of large square products in bf16,
measured with PyTorch in the same process as Transformers.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.against_peers import ROOT, read_results, run, table

# Type of the text file to that of the mmproj file.
TYPES = {"f16": "f16", "q8_0": "q8_0", "q4_k_m": "q8_0"}
ATTENTION = ("products", "flash")
REFERENCE = "transformers.bf16"


@dataclass(frozen=True)
class Row:
    """One contestant: its name in the results, and the command that runs it."""

    name: str
    command: list[str]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """All contestants in the order of their turns."""
    on_cpu = options.device.upper() == "CPU"
    common = ["--prompt", str(options.prompt), "--threads", str(options.threads), "--runs", str(options.runs)]
    common += ["--images", *map(str, options.images)]
    place = ["--device", "cpu"] if on_cpu else ["--device", options.torch_device, "--products", "8192"]
    module = "benchmarks.peers.transformers_contestant"
    yield Row(REFERENCE, _command(options, module, "--checkpoint", options.checkpoint, *place, *common))
    module = "benchmarks.peers.visionward_contestant"
    for text_type in options.types:
        text, mmproj = pair(options, text_type)
        files = ["--text", str(text), "--mmproj", str(mmproj), "--device", options.device, "--vision-backend", "ggml"]
        for attention in ATTENTION:
            name = f"visionward.{text_type}.{attention}"
            yield Row(name, _command(options, module, *files, "--attention", attention, *common))


def _command(options: argparse.Namespace, module: str, *arguments: object) -> list[str]:
    python = options.torch_python if module.endswith("transformers_contestant") else sys.executable
    return [str(python), "-m", module, *map(str, arguments)]


def pair(options: argparse.Namespace, text_type: str) -> tuple[Path, Path]:
    """The text file and the mmproj file of a type, converted if they are not there.

    Raises:
        SystemExit: if the conversion fails.
    """
    folder = options.models / text_type
    if not list(folder.glob("*.gguf")):
        types = ("--text-type", text_type, "--mmproj-type", TYPES[text_type], "--onnx", "none")
        convert = (sys.executable, "-m", "visionward", "convert", str(options.checkpoint), str(folder), *types)
        if subprocess.run(convert, check=False, cwd=ROOT).returncode:
            raise SystemExit(f"{options.checkpoint} could not be converted to {text_type}.")
    mmproj = next(folder.glob("mmproj-*.gguf"))
    return next(path for path in folder.glob("*.gguf") if path != mmproj), mmproj


def operations(config: dict[str, Any], tiles: int, tokens: int) -> int:
    """Floating-point operations that a classification needs: two per weight and row, and attention's products.

    Args:
        config: the checkpoint's config.json.
        tiles: of the image.
        tokens: of the prompt.
    """
    text, vision = config["text_config"], config["vision_config"]
    width, wide = vision["hidden_size"], text["hidden_size"]
    seen = tiles * ((vision["image_size"] // vision["patch_size"]) ** 2 + 1)
    tower_layer = seen * (4 * width**2 + 2 * width * vision["intermediate_size"]) + 2 * seen**2 * width
    tower = (vision["num_hidden_layers"] + vision["num_global_layers"]) * tower_layer
    tower += seen * (3 * vision["patch_size"] ** 2 * width + vision["vision_output_dim"] * wide)
    keys = wide * text["num_key_value_heads"] // text["num_attention_heads"]
    cross = len(text["cross_attention_layers"])
    feed_forward = 3 * wide * text["intermediate_size"]
    # A row attends to half of the prompt on average.
    self_layer = tokens * (2 * wide**2 + 2 * wide * keys + feed_forward) + tokens**2 * wide
    cross_layer = tokens * (2 * wide**2 + feed_forward) + 2 * seen * wide * keys + 2 * tokens * seen * wide
    layers = (text["num_hidden_layers"] - cross) * self_layer + cross * cross_layer
    return 2 * (tower + layers + wide * text["vocab_size"])


def report(results: list[dict[str, Any]], config: dict[str, Any]) -> str:
    """Medians of all rounds, in Markdown."""
    good = [one for one in results if "error" not in one]
    names = list(dict.fromkeys(one["row"] for one in good))
    peaks = [one["products_flops"] for one in good if one["row"] == REFERENCE]
    lines = []
    for tiles in sorted({tiles for one in good for tiles in one["images"]}, key=int):
        whole = {}
        for name in names:
            of_row = [one for one in good if one["row"] == name and tiles in one["images"]]
            stages = ("vision_s", "text_s", "token_s", "whole_s")
            seconds = {stage: statistics.median(one["images"][tiles][stage] for one in of_row) for stage in stages}
            whole[name] = seconds["whole_s"]
            rate = operations(config, int(tiles), of_row[0]["prompt_tokens"]) / seconds["whole_s"]
            ratio = f"{whole[name] / whole[REFERENCE]:.2f}" if REFERENCE in whole else ""
            share = f"{rate / statistics.median(peaks):.0%}" if peaks else ""
            milliseconds = [f"{1000 * seconds[stage]:.1f}" for stage in stages]
            lines.append([tiles, name, *milliseconds, ratio, f"{rate / 1e12:.3g}", share, str(len(of_row))])
    head = ("tiles", "row", "vision ms", "prompt ms", "token ms", "vision and prompt ms", "of Transformers")
    parts = [table((*head, "TFLOP/s", "of the peak", "rounds"), lines)]
    parts += [f"Peak of products: {statistics.median(peaks) / 1e12:.3g} TFLOP/s"] if peaks else []
    parts += [f"{row}: {said}" for row, said in dict.fromkeys((one["row"], _said(one)) for one in good)]
    failed = sorted({(one["row"], one["error"]) for one in results if "error" in one})
    return "\n\n".join([*parts, *(["## Failed", table(("row", "error"), failed)] if failed else [])])


def _said(record: dict[str, Any]) -> str:
    warnings = " ".join(record.get("warnings", ()))
    return f"{record.get('devices') or record['says'].get('GPU') or 'CPU'}. {warnings}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines; added to")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the converted files are")
    parser.add_argument("--device", default="CUDA0", help="as `visionward doctor` lists it")
    parser.add_argument("--torch-device", default="cuda:0", help="the same GPU by PyTorch's name")
    parser.add_argument(
        "--torch-python", type=Path, default=Path(sys.executable), help="a Python that has Transformers"
    )
    parser.add_argument("--types", choices=TYPES, nargs="+", default=list(TYPES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5, help="measured runs in each process")
    parser.add_argument("--tokens", type=int, default=254, help="of the prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="numbers of tiles")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    options = parser.parse_args()
    for name in ("results", "checkpoint", "models"):
        setattr(options, name, getattr(options, name).resolve())
    if not options.table:
        take_turns(options)
    results = read_results(options.results)
    config = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
    print(report(results, config))
    if any("error" in one for one in results):
        sys.exit("some rows failed: see the end of the report.")


def take_turns(options: argparse.Namespace) -> None:
    """Run what is missing."""
    from benchmarks.peers.inputs import write_inputs  # noqa: PLC0415 - a table alone needs no visionward

    options.prompt = options.results.with_suffix(".prompt.json")
    if not options.prompt.exists():
        write_inputs(options.checkpoint, options.prompt, options.tokens)
    contestants = list(rows(options))
    done = {(one["round"], one["row"]) for one in read_results(options.results) if "error" not in one}
    for number in range(1, options.rounds + 1):
        for which in contestants:
            if (number, which.name) in done:
                continue
            record = {"round": number, "row": which.name, **run(which.command)}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            said = record.get("error") or f"{record['process_s']} s"
            print(f"round {number}, {which.name}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
