"""What is in a GGUF pair, from the headers of its files alone: nothing is loaded."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from visionward.errors import VisionwardError
from visionward.formats import mmproj_format as form
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import check_mmproj_tensors, read_mmproj_config
from visionward.formats.mmproj_format import MmprojConfig, TextIdentity
from visionward.formats.tensor_checksums import has_checksums
from visionward.formats.text_format import TEXT_ARCHITECTURE, read_text_config
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import DEFAULT_POLICY, Category, Policy
from visionward.runtime.images.images import ImageSource

# gguf's TokenType.CONTROL
_CONTROL = 3
# Variables of a template that hold the policy.
_POLICY_VARIABLES = frozenset({"categories", "excluded_category_keys"})


@dataclass(frozen=True)
class TensorCount:
    """Tensors of one element type."""

    type: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class FileSummary:
    """What both files have.

    Attributes:
        file: its name without folders.
        name: the model's name.
        nbytes: size of the file.
        parameters: number of weights.
        types: tensors by element type, the largest share first.
        text_hash: content hash of the decoder; equal in files that belong together.
        checksum: of the header, which has those of the tensors; None in a file without checksums.
        license: names, links and notices.
        source: where the model comes from, if the file has it.
        demonstration: whether the file is marked as the demonstration guard's.
    """

    file: str
    name: str | None
    nbytes: int
    parameters: int
    types: tuple[TensorCount, ...]
    text_hash: str
    checksum: str | None
    license: tuple[str, ...]
    source: tuple[str, ...]
    demonstration: bool


@dataclass(frozen=True)
class TemplateSummary:
    """The chat template.

    Attributes:
        source: the Jinja text; None if the file has none and the built-in template is used.
        used: whether the runtime can use the file's own.
        reads_policy: whether it reads the variables for categories and exclusions.
        takes_exclusions, takes_categories: whether a policy with categories left out, or with the user's own
            categories, is rendered with it. If not, the built-in template is used, with a warning.
        problems: the runtime's warnings.
    """

    source: str | None
    used: bool
    reads_policy: bool
    takes_exclusions: bool
    takes_categories: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class TextSummary:
    """The text file: the decoder and its vocabulary."""

    file: FileSummary
    layers: int
    width: int
    feed_forward_length: int
    heads: int
    heads_kv: int
    context_length: int
    vocabulary: int
    vocab_rows: int
    image_token_id: int
    end_tokens: tuple[str, ...]
    template: TemplateSummary
    policy: tuple[Category, ...]


@dataclass(frozen=True)
class MmprojSummary:
    """The mmproj file: vision tower, projector and cross-attention layers."""

    file: FileSummary
    config: MmprojConfig


@dataclass(frozen=True)
class PairSummary:
    """One or both files of a pair.

    Attributes:
        text, mmproj: the files that were given.
        differences: why the two do not belong together; empty if they do, None if only one was given.
    """

    text: TextSummary | None
    mmproj: MmprojSummary | None
    differences: tuple[str, ...] | None


def summarize_pair(text: Path | None, mmproj: Path | None) -> PairSummary:
    """Summarize one or both files.

    Raises:
        ModelFileError: if a file is missing, damaged or of another kind.
    """
    decoder = None if text is None else _text_summary(text)
    image = None if mmproj is None else _mmproj_summary(mmproj)
    differences = None if decoder is None or image is None else _differences(decoder, image.config)
    return PairSummary(decoder, image, differences)


def _differences(text: TextSummary, config: MmprojConfig) -> tuple[str, ...]:
    identity = TextIdentity(text.file.text_hash, text.layers, text.width, text.vocab_rows, text.image_token_id)
    return config.differences(identity)


def _optional(file: GgufHeader, key: str) -> str | None:
    return file.get(key, str) if file.has(key) else None


def _file_summary(file: GgufHeader) -> FileSummary:
    tensors = file.tensors.values()
    count: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for tensor in tensors:
        count[tensor.dtype.name] += 1
        nbytes[tensor.dtype.name] += tensor.nbytes
    origins = ("general.source.repo_url", "general.base_model.0.repo_url")
    return FileSummary(
        file=file.path.name,
        name=_optional(file, "general.name"),
        nbytes=file.path.stat().st_size,
        parameters=sum(tensor.elements for tensor in tensors),
        types=tuple(TensorCount(name, count[name], size) for name, size in nbytes.most_common()),
        text_hash=file.get(form.KEY_TEXT_HASH, str),
        checksum=file.get(form.KEY_HEADER_CHECKSUM, str) if has_checksums(file) else None,
        license=tuple(text for key in form.LICENSE_KEYS if (text := _optional(file, key))),
        source=tuple(text for key in origins if (text := _optional(file, key))),
        demonstration=file.has(form.KEY_DEMONSTRATION) and file.get(form.KEY_DEMONSTRATION, bool),
    )


def _mmproj_summary(path: Path) -> MmprojSummary:
    file = GgufHeader(path, form.MMPROJ_ARCHITECTURE)
    config = read_mmproj_config(file)
    check_mmproj_tensors(file, config)
    return MmprojSummary(_file_summary(file), config)


def _text_summary(path: Path) -> TextSummary:
    file = GgufHeader(path, TEXT_ARCHITECTURE)
    config = read_text_config(file)
    tokens = [token.decode("utf-8", "replace") for token in config.tokens]
    special = [token for token, kind in zip(tokens, config.token_types, strict=True) if kind == _CONTROL]
    return TextSummary(
        file=_file_summary(file),
        layers=config.identity.layers,
        width=config.identity.width,
        feed_forward_length=config.feed_forward_length,
        heads=config.head_count,
        heads_kv=config.head_count_kv,
        context_length=config.context_length,
        vocabulary=len(tokens),
        vocab_rows=config.identity.vocab_rows,
        image_token_id=config.identity.image_token_id,
        end_tokens=tuple(tokens[token] for token in config.end_token_ids),
        template=_template_summary(config.chat_template, special),
        policy=DEFAULT_POLICY.categories,
    )


def _template_summary(source: str | None, special_tokens: list[str]) -> TemplateSummary:
    """Render as the runtime does, and note which template was used."""
    if source is None:
        return TemplateSummary(
            None, used=False, reads_policy=True, takes_exclusions=True, takes_categories=True, problems=()
        )
    policies = {
        "default": DEFAULT_POLICY,
        "exclusions": DEFAULT_POLICY.exclude(DEFAULT_POLICY.codes[:1]),
        "categories": Policy((Category("S1", "Spoilers", "How a film ends."),)),
    }
    # Rendering a prompt does not read the image.
    nothing: ImageSource = b""
    conversation = Conversation.from_prompt("Describe the image", image=nothing)
    warnings: dict[str, tuple[str, ...]] = {}
    for name, policy in policies.items():
        try:
            warnings[name] = ChatTemplate(source, special_tokens=special_tokens).render(conversation, policy).warnings
        except VisionwardError as error:
            warnings[name] = (str(error),)
    return TemplateSummary(
        source=source,
        used=not warnings["default"],
        reads_policy=_reads_policy(source),
        takes_exclusions=not warnings["exclusions"],
        takes_categories=not warnings["categories"],
        problems=tuple(dict.fromkeys(text for texts in warnings.values() for text in texts)),
    )


def _reads_policy(source: str) -> bool:
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return bool(meta.find_undeclared_variables(environment.parse(source)) & _POLICY_VARIABLES)
    except jinja2.TemplateError:
        return False


def to_dict(summary: PairSummary) -> dict[str, Any]:
    """A summary as plain values."""
    plain: dict[str, Any] = json.loads(json.dumps(summary, default=vars))
    return plain
