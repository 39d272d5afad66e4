"""Pick the sample pictures that ship with the demo guard: few, small, and showing that both inputs matter."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from training.demo_data import HELD_OUT_SEED, Sample, samples
from training.demo_reference import ReferenceGuard

_SEARCHED = 4000
_LARGEST = 22_000  # bytes of one picture

Group = list[Sample]


def _groups() -> Iterator[Group]:
    drawn = samples(_SEARCHED, HELD_OUT_SEED)
    for first in drawn:
        yield [first, *(next(drawn) for _ in range(3))]


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _judged_right(guard: ReferenceGuard, sample: Sample) -> bool:
    """Whether the guard answers exactly right, and surely, on the picture as it will be shipped."""
    image = Image.open(io.BytesIO(_jpeg(sample.image))).convert("RGB")
    judged = guard.judge(sample.messages, guard.image_states(image))
    return judged.answer == sample.answer and max(judged.score, 1 - judged.score) > 0.9


def _find(guard: ReferenceGuard, wanted: Callable[[Group], Group]) -> Group:
    for group in _groups():
        chosen = wanted(group)
        if (
            chosen
            and all(len(_jpeg(sample.image)) <= _LARGEST for sample in chosen)
            and all(_judged_right(guard, sample) for sample in chosen)
        ):
            return chosen
    raise RuntimeError("no group of held-out samples fits")


def _whole_group(turns: int, tiles: set[int]) -> Callable[[Group], Group]:
    def wanted(group: Group) -> Group:
        fits = all(len(s.turns) == turns for s in group) and {s.tiles for s in group} == tiles
        return group if fits else []

    return wanted


def _two_categories(group: Group) -> Group:
    return [s for s in group if s.categories == ("S1", "S10") and len(s.turns) == 1][:1]


def write_samples(guard: ReferenceGuard, folder: Path) -> int:
    """Write the pictures and `samples.jsonl`; return how many samples there are."""
    chosen = [
        *_find(guard, _whole_group(turns=1, tiles={1, 2})),
        *_find(guard, _whole_group(turns=2, tiles={3, 4})),
        *_find(guard, _two_categories),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[bytes, str] = {}
    lines = []
    for sample in chosen:
        data = _jpeg(sample.image)
        if data not in names:
            names[data] = f"picture_{len(names) + 1}_{sample.tiles}_tiles.jpg"
            (folder / names[data]).write_bytes(data)
        line = {"image": names[data], "prompt": sample.turns[0].text}
        if sample.judges_response:
            line["response"] = sample.turns[1].text
        line |= {"label": "unsafe" if sample.unsafe else "safe", "categories": list(sample.categories)}
        lines.append(json.dumps(line))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)
