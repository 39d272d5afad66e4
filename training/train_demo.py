"""Make everything in visionward/demo_guard: `python -m training.train_demo`.

Trains on two cores in about half an hour. A C++ compiler makes it nearly twice as fast (torch.compile); without one,
or with --no-compile, the same steps run uncompiled. Finished stages are kept in the work folder and not done again.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MllamaForConditionalGeneration

from training.demo_card import write_card
from training.demo_model import new_model, save_checkpoint
from training.demo_pool import Pool, make_pool
from training.demo_reference import ReferenceGuard
from training.demo_samples import write_samples
from training.demo_text_stage import Mix, cache_states, train_decoder
from training.demo_tokenizer import build_tokenizer
from training.demo_vision_stage import train_tower
from training.evaluate_demo import CHECKPOINT, REFERENCE_FILE, evaluate, write_reference

Stage = Callable[[], None]
SEED = 0


@dataclass(frozen=True)
class Work:
    """A folder that keeps the weights after each stage and the seconds that it took."""

    folder: Path
    model: MllamaForConditionalGeneration

    def do(self, name: str, stage: Stage) -> None:
        """Run a stage, or load its weights if it ran before."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            started = time.monotonic()
            stage()
            state = {"weights": self.model.state_dict(), "seconds": time.monotonic() - started}
            torch.save(state, path)
        self.model.load_state_dict(torch.load(path)["weights"])

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took."""
        return {path.stem: torch.load(path)["seconds"] for path in sorted(self.folder.glob("*.pt"))}


def train(work: Work, *, compiled: bool) -> None:
    """Run the training stages: the tower by itself, then the decoder with short prompts, then with whole ones."""
    model, tokenizer = work.model, build_tokenizer()

    def tower() -> None:
        pools = [make_pool(4000, 101, crowded=True), make_pool(2000, 102, crowded=False)]
        train_tower(model, pools, steps=450, batch=12, seed=1, compiled=compiled)

    work.do("1_tower", tower)
    drawn: list[tuple[Pool, torch.Tensor]] = []

    def decoder(mix: Mix, steps: int, seed: int, rate: float) -> Stage:
        def stage() -> None:
            if not drawn:
                pool = make_pool(4000, 103, crowded=False)
                drawn.append((pool, cache_states(model, pool)))
            train_decoder(model, tokenizer, *drawn[0], mix, steps=steps, seed=seed, rate=rate, compiled=compiled)

        return stage

    work.do("2_short_prompts", decoder(Mix(short=True), steps=600, seed=2, rate=1e-3))
    whole = Mix(neutral=0.04, text_only=0.04, excluding=0.25)
    work.do("3_whole_prompts", decoder(whole, steps=300, seed=3, rate=7e-4))
    work.do("4_whole_prompts_again", decoder(whole, steps=300, seed=4, rate=4e-4))


def publish(work: Work, folder: Path) -> dict[str, Any]:
    """Write the checkpoint, judge the weights as shipped, and write what follows from that."""
    save_checkpoint(work.model, build_tokenizer(), folder)
    rows, figures = evaluate(folder)
    print(json.dumps(figures, indent=2), flush=True)
    write_reference(rows, figures, folder / "model.safetensors", REFERENCE_FILE)
    write_samples(ReferenceGuard(folder), folder / "samples")
    parameters = sum(parameter.numel() for parameter in work.model.parameters())
    write_card(figures, work.seconds(), parameters, folder / "README.md")
    return figures


def main() -> None:
    """Train and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/demo_training"), help="where finished stages are kept")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the checkpoint folder to write")
    parser.add_argument("--no-compile", action="store_true", help="do not compile layers")
    options = parser.parse_args()
    torch.set_num_threads(2)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # pools are drawn by forked workers
    options.work.mkdir(parents=True, exist_ok=True)
    work = Work(options.work, new_model(SEED))
    compiled = not options.no_compile and shutil.which("g++") is not None
    train(work, compiled=compiled)
    figures = publish(work, options.out)
    if figures["all"]["f1"] < 0.95:
        raise SystemExit(f"F1 {figures['all']['f1']:.3f} is under 0.95: do not ship this")


if __name__ == "__main__":
    main()
