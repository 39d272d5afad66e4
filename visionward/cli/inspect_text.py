"""A pair's summary as text."""

from collections.abc import Iterable, Iterator

from visionward.cli.table import row
from visionward.diagnose.pair_summary import FileSummary, MmprojSummary, PairSummary, TextSummary
from visionward.quantities import count_text, size_text

_VALUE_COLUMN = 22


def summary_lines(summary: PairSummary) -> Iterator[str]:
    """The whole summary."""
    if summary.text is not None:
        yield from _text_lines(summary.text)
        yield ""
    if summary.mmproj is not None:
        yield from _mmproj_lines(summary.mmproj)
        yield ""
    if summary.differences is None:
        yield "Pair: only one file was given"
    elif summary.differences:
        yield f"Pair: the files do NOT belong together ({', '.join(summary.differences)} differ)"
    else:
        yield "Pair: the files belong together"


def _row(name: str, value: object) -> str:
    return row(f"  {name}", value, _VALUE_COLUMN)


def _file_lines(file: FileSummary) -> Iterator[str]:
    yield _row("file", f"{file.file} ({size_text(file.nbytes)})")
    yield _row("name", file.name or "none")
    yield _row("weights", f"{file.parameters / 1e6:,.1f} million")
    for count in file.types:
        yield _row(f"  {count.type}", f"{count_text(count.tensors, 'tensor')}, {size_text(count.nbytes)}")
    yield _row("content hash", file.text_hash[:16])
    yield _row("checksum", "none, so damage may go undetected" if file.checksum is None else file.checksum[:16])
    for origin in file.source:
        yield _row("made from", origin)
    for text in file.license or ("not in the file",):
        yield _row("licence", text)


def _text_lines(text: TextSummary) -> Iterator[str]:
    yield "Text file (the decoder)"
    yield from _file_lines(text.file)
    yield _row("layers", f"{text.layers} of width {text.width}, MLP {text.feed_forward_length}")
    yield _row("heads", f"{text.heads}, {text.heads_kv} for keys and values")
    yield _row("context", f"{count_text(text.context_length, 'token')} in training")
    yield _row("vocabulary", f"{count_text(text.vocabulary, 'token')}, of which {text.vocab_rows:,} can be predicted")
    yield _row("image token", text.image_token_id)
    yield _row("answers end with", " ".join(text.end_tokens) or "the vocabulary's own end tokens")
    template = text.template
    if template.source is None:
        yield _row("template", "none in the file, so the built-in one is used")
    else:
        lines = template.source.count("\n") + 1
        own = "the checkpoint's" if template.used else "the built-in one: the checkpoint's CANNOT be used"
        yield _row("template", f"{own} ({count_text(lines, 'line')}; --template prints it)")
        yield _row("  reads a policy", _yes(template.reads_policy))
        yield _row("  with exclusions", "used" if template.takes_exclusions else "replaced by the built-in one")
        yield _row("  own categories", "used" if template.takes_categories else "replaced by the built-in one")
        yield from (_row("  note", problem) for problem in template.problems)
    yield _row("policy in force", f"{text.policy[0].code} {text.policy[0].name}")
    yield from (_row("", f"{category.code} {category.name}") for category in text.policy[1:])


def _mmproj_lines(mmproj: MmprojSummary) -> Iterator[str]:
    vision, cross = mmproj.config.vision, mmproj.config.cross_attention
    yield "mmproj file (vision tower, projector, cross-attention layers)"
    yield from _file_lines(mmproj.file)
    size = f"{vision.tile_size} x {vision.tile_size} pixels"
    yield _row("tiles", f"up to {vision.max_tiles} of {size}, {vision.tile_tokens} tokens per tile")
    yield _row(
        "aspect ratios", _listed(f"{high}x{wide}" for high, wide in vision.aspect_ratios) + " (tiles high x wide)"
    )
    yield _row(
        "tower",
        f"{vision.local_layers} + {vision.global_layers} layers of width {vision.width}, {vision.head_count} heads",
    )
    yield _row(
        "features", f"{vision.feature_width} wide, from layers {_listed(vision.intermediate_layers)} and the last"
    )
    yield _row("padding collapses", _yes(vision.padding_collapses))
    total = cross.self_attention_layers + len(cross.layers)
    yield _row("cross-attention", f"{len(cross.layers)} of {total} decoder layers: {_listed(cross.layers)}")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
