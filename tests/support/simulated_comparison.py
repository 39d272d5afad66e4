"""Models that never ran: answers drawn at random, for tests of figures and reports."""

from pathlib import Path

import numpy as np
from PIL import Image

from visionward.compare.datasets import Dataset
from visionward.compare.journal import FeatureError, Judged, Loaded
from visionward.compare.models import Endpoint, GuardFiles
from visionward.compare.results import ModelResults
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample

CODES = ("S1", "S2", "S9")


def simulated_samples(count: int, folder: Path | None = None, group_size: int = 1) -> Dataset:
    """Harmless samples, every other one called unsafe."""
    samples = []
    for i in range(count):
        picture = None
        if folder is not None:
            picture = folder / f"{i}.png"
            Image.effect_noise((80 + i % 3 * 30, 60), 5 + i % 90).convert("RGB").save(picture)
        unsafe = i % 2 == 0
        codes = [CODES[i % 3]] if unsafe else None
        conversation = Conversation.from_prompt(f"Question {i}?", None if i % 3 else f"Answer {i}.", picture)
        samples.append(Sample.make(f"s{i}", conversation, unsafe=unsafe, categories=codes, group=f"g{i // group_size}"))
    return Dataset("simulated", tuple(samples))


def simulated_answers(dataset: Dataset, noise: float, seed: int, base_seed: int = 0) -> dict[str, Judged]:
    """Answers of a model that is a noisy form of one that is mostly right."""
    base, own = np.random.default_rng(base_seed), np.random.default_rng(seed)
    judged = {}
    for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
        logit = (3.0 if sample.unsafe else -3.0) + base.normal(0, 2.2)
        change = own.normal(0, noise) if noise else 0.0
        score = float(1 / (1 + np.exp(-(logit + change))))
        unsafe = score >= 0.5
        times = {"preprocess": 5.0, "vision": own.gamma(20, 60), "prefill": own.gamma(20, 12)}
        times["decode"] = own.gamma(20, 4) if unsafe else 0.0
        judged[digest] = Judged(
            digest,
            unsafe=unsafe,
            score=score,
            answer_mass=0.99,
            categories=tuple(sorted(sample.categories or ())) or ("S1",) if unsafe else (),
            times_ms={**times, "total": sum(times.values())},
            tiles=1,
            prompt_tokens=200,
            kl=change**2 / 8 if noise else None,
            logit_error=abs(change) / 30 if noise else None,
            peak_bytes=10**9,
        )
    return judged


def simulated_pair(folder: Path, name: str, size: int) -> GuardFiles:
    """Two files that are no models."""
    paths = [folder / f"{name}-text.gguf", folder / f"{name}-mmproj.gguf"]
    for path, part in zip(paths, (size * 3 // 4, size // 4), strict=True):
        with path.open("wb") as file:
            file.truncate(part)
    return GuardFiles(name, *paths)


def simulated_results(folder: Path, dataset: Dataset, noises: dict[str, tuple[float, int]]) -> list[ModelResults]:
    """Name to (noise, file size); the first is the reference."""
    results = []
    for seed, (name, (noise, size)) in enumerate(noises.items(), start=1):
        features = (FeatureError(dataset.digests[0], noise / 100),) if noise else ()
        results.append(
            ModelResults(
                simulated_pair(folder, name, size),
                simulated_answers(dataset, noise, seed),
                (Loaded(1234.0, 128_256, "CPU", 2),),
                features,
            )
        )
    return results


def simulated_endpoint(dataset: Dataset) -> ModelResults:
    """A general model: many false alarms."""
    judged = {}
    rng = np.random.default_rng(99)
    for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
        unsafe = bool(rng.random() < (0.9 if sample.unsafe else 0.3))
        judged[digest] = Judged(digest, unsafe=unsafe, score=float(unsafe), times_ms={"total": rng.gamma(20, 40)})
    return ModelResults(Endpoint("general-model", "http://127.0.0.1:1/v1", "m", "zero-shot"), judged)
