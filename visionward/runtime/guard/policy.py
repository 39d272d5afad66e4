"""The safety policy: the categories that the model is asked about, in the order in which the prompt lists them.

In the prompt a category is one entry ``S1: Violent Crimes.``: the code, a colon, the name with a full stop. A custom
description follows on the next line, as in the policies that Meta published for Llama Guard 3 (``S1: Violent Crimes.``
and then ``AI models should not create content that enables, encourages, ...``, with ``- `` in front of each item of a
list). Write it as the model's own descriptions are: what the content must not do, then examples. It may have several
lines, but no line of it may look like another category's entry. The vision model was tuned on names alone, so a
description steers it less than it steers a large instruction model: compare verdicts before relying on one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike

from visionward.errors import PolicyError
from visionward.formats.strict_json import read_json

# More than any prompt has room for.
_MOST_BYTES = 2**20

_CODE = re.compile(r"S[1-9][0-9]*")
_ENTRY_START = re.compile(r"\s*S[0-9]+\s*:")
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


def _checked_text(code: str, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{code}: the {field} is {type(value).__name__}, expected text")
    if not value.strip():
        raise PolicyError(f"{code}: the {field} is empty")
    if bad := _UNUSABLE.search(value):
        raise PolicyError(f"{code}: the {field} holds U+{ord(bad[0]):04X}, which no tokenizer can read")
    return value


@dataclass(frozen=True)
class Category:
    """One hazard category.

    Attributes:
        code: what the model answers with: ``S`` and a number without leading zeros.
        name: its name on one line, with or without the full stop that the prompt puts behind it.
        description: what it covers, or None; it may have several lines.

    Raises:
        PolicyError: the code is malformed, or a text is empty, of another type, or would break the prompt's list.
    """

    code: str
    name: str
    description: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.code, str) or not _CODE.fullmatch(self.code):
            raise PolicyError(f"category code {self.code!r} is malformed, expected S1, S2, ...")
        if _LINE_BREAKS.search(_checked_text(self.code, "name", self.name)):
            raise PolicyError(f"{self.code}: the name has a line break; put the rest into the description")
        if self.description is not None:
            for line in _LINE_BREAKS.split(_checked_text(self.code, "description", self.description)):
                if _ENTRY_START.match(line):
                    raise PolicyError(f"{self.code}: the description has a line that reads as a category: {line!r}")

    @property
    def prompt_text(self) -> str:
        """What follows ``S1: `` in the prompt: the name with a full stop, the description on the next line."""
        name = self.name.strip()
        name = name if name[-1] in ".!?" else name + "."
        return name if self.description is None else f"{name}\n{self.description.strip()}"


@dataclass(frozen=True)
class Policy:
    """The categories of a classification, in prompt order.

    Raises:
        PolicyError: there are none, or a code occurs twice.
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        if not self.categories:
            raise PolicyError("the policy has no category: there would be nothing to judge by")
        seen: set[str] = set()
        for category in self.categories:
            if category.code in seen:
                raise PolicyError(f"category {category.code} occurs twice in the policy")
            seen.add(category.code)

    @classmethod
    def from_mapping(cls, mapping: object) -> "Policy":
        """A policy from ``{"S1": {"name": "...", "description": "..."}, "S2": "a name alone", ...}``.

        Raises:
            PolicyError: the mapping is not of that form.
        """
        if not isinstance(mapping, Mapping):
            raise PolicyError(f"a policy is an object from codes to categories, found {type(mapping).__name__}")
        return cls(tuple(_category(code, entry) for code, entry in mapping.items()))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> "Policy":
        """A policy from a JSON file of the form that `from_mapping` takes.

        Raises:
            PolicyError: the file cannot be read, is no regular file, has more than 1 MiB, or is not of that form; the
                message names it.
        """
        mapping = read_json(path, PolicyError, _MOST_BYTES)
        try:
            return cls.from_mapping(mapping)
        except PolicyError as cause:
            raise PolicyError(f"{path}: {cause}") from cause

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes in prompt order."""
        return tuple(category.code for category in self.categories)

    @property
    def is_default(self) -> bool:
        """Whether this is the model's own policy, unchanged."""
        return self == DEFAULT_POLICY

    @property
    def default_exclusions(self) -> tuple[str, ...] | None:
        """The codes that the default policy has and this one leaves out; None if it differs in anything else."""
        if self.categories != tuple(c for c in DEFAULT_POLICY.categories if c.code in self):
            return None
        return tuple(code for code in DEFAULT_POLICY.codes if code not in self)

    def __contains__(self, code: object) -> bool:
        return code in self.codes

    def __getitem__(self, code: str) -> Category:
        """The category of a code.

        Raises:
            PolicyError: the policy has no such code; the message names those it has.
        """
        for category in self.categories:
            if category.code == code:
                return category
        raise self._unknown(code)

    def exclude(self, codes: Iterable[str]) -> "Policy":
        """This policy without some of its categories.

        Raises:
            PolicyError: a code is unknown, occurs twice, or none would be left.
        """
        if isinstance(codes, str):
            raise PolicyError(f"the codes to exclude are the text {codes!r}, expected a list of codes")
        excluded: list[str] = []
        for code in codes:
            if code not in self:
                raise self._unknown(code)
            if code in excluded:
                raise PolicyError(f"category {code} is excluded twice")
            excluded.append(code)
        left = tuple(category for category in self.categories if category.code not in excluded)
        if not left:
            raise PolicyError("every category is excluded: there would be nothing to judge by")
        return Policy(left)

    def prompt_categories(self) -> dict[str, str]:
        """What the chat template reads as ``categories``: code to prompt text, in order."""
        return {category.code: category.prompt_text for category in self.categories}

    def _unknown(self, code: object) -> PolicyError:
        return PolicyError(f"unknown category {code!r}; the policy has {', '.join(self.codes)}")


def _category(code: object, entry: object) -> Category:
    if not isinstance(code, str):
        raise PolicyError(f"category code {code!r} is malformed, expected S1, S2, ...")
    if isinstance(entry, str):
        return Category(code, entry)
    if not isinstance(entry, Mapping):
        raise PolicyError(f"{code}: expected a name or an object with a name, found {type(entry).__name__}")
    unknown = [key for key in entry if key not in {"name", "description"}]
    if unknown:
        raise PolicyError(f"{code}: unknown key {unknown[0]!r}, expected 'name' and perhaps 'description'")
    if "name" not in entry:
        raise PolicyError(f"{code}: the name is missing")
    return Category(code, entry["name"], entry.get("description"))


# The MLCommons taxonomy as the prompt of Llama Guard 3 11B Vision spells it.
DEFAULT_POLICY = Policy(
    tuple(
        Category(f"S{number}", name)
        for number, name in enumerate(
            (
                "Violent Crimes",
                "Non-Violent Crimes",
                "Sex Crimes",
                "Child Exploitation",
                "Defamation",
                "Specialized Advice",
                "Privacy",
                "Intellectual Property",
                "Indiscriminate Weapons",
                "Hate",
                "Self-Harm",
                "Sexual Content",
                "Elections",
            ),
            start=1,
        )
    )
)
