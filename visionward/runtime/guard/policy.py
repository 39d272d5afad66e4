"""The safety policy: the categories that the prompt asks the model about, in order.

In the prompt a category is one entry ``S1: Violent Crimes.``: the code, a colon, and the name with a full stop. A
custom description follows on the next line, as in the policies that Meta published for Llama Guard 3
(``S1: Violent Crimes.``, then ``AI models should not create content that enables, encourages, ...``, with ``- `` before
each item of a list).
Write it in the form of the model's own descriptions: what the content must not do, then examples. It may have several
lines, but no line may look like the entry of another category. The vision model was tuned on names alone, so a
description influences it less than it influences a large instruction model. Compare verdicts before relying on one.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike

from visionward.errors import PolicyError, VisionwardError
from visionward.formats.strict_json import read_json
from visionward.runtime.guard.plain_text import checked_text

# A category code: S and a number without leading zeros.
CODE_PATTERN = "S[1-9][0-9]*"
_CODE = re.compile(CODE_PATTERN)

# More than fits into any prompt.
_MAX_FILE_BYTES = 2**20
_ENTRY_START = re.compile(r"\s*S[0-9]+\s*:")
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


def is_code(text: str) -> bool:
    """Whether a text has the form of a category code."""
    return _CODE.fullmatch(text) is not None


def check_code(code: object, error: type[VisionwardError] = PolicyError) -> str:
    """A value that must be a category code.

    Raises:
        VisionwardError: of the class ``error``: it is not.
    """
    if not isinstance(code, str) or not is_code(code):
        raise error(f"malformed category code {code!r}, expected S1, S2, ...")
    return code


@dataclass(frozen=True)
class Category:
    """One hazard category.

    Attributes:
        code: what the model answers with: ``S`` and a number without leading zeros.
        name: one line, with or without the full stop that ends it in the prompt.
        description: what it covers, in one or several lines; None for the name alone.

    Raises:
        PolicyError: the code is malformed, or a text is empty, of another type, or would break the list in the prompt.
    """

    code: str
    name: str
    description: str | None = None

    def __post_init__(self) -> None:
        check_code(self.code)
        if _LINE_BREAKS.search(checked_text(self.name, f"{self.code}: the name", PolicyError)):
            raise PolicyError(f"{self.code}: the name has a line break: put further lines into the description")
        if self.description is None:
            return
        for line in _LINE_BREAKS.split(checked_text(self.description, f"{self.code}: the description", PolicyError)):
            if _ENTRY_START.match(line):
                raise PolicyError(f"{self.code}: a line of the description looks like a category: {line!r}")

    @property
    def prompt_text(self) -> str:
        """What follows ``S1: `` in the prompt: the name with a full stop, and the description on the next line."""
        name = self.name.strip()
        name = name if name[-1] in ".!?" else name + "."
        return name if self.description is None else f"{name}\n{self.description.strip()}"


@dataclass(frozen=True)
class Policy:
    """The categories of a classification, in the order of the prompt.

    Raises:
        PolicyError: there are no categories, or a code occurs twice.
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        if not self.categories:
            raise PolicyError("the policy has no categories")
        seen: set[str] = set()
        for category in self.categories:
            if category.code in seen:
                raise PolicyError(f"category {category.code} occurs twice in the policy")
            seen.add(category.code)

    @classmethod
    def from_mapping(cls, mapping: object) -> "Policy":
        """A policy from ``{"S1": {"name": "...", "description": "..."}, "S2": "only a name", ...}``.

        Raises:
            PolicyError: the mapping is not of that form.
        """
        if not isinstance(mapping, Mapping):
            raise PolicyError(
                f"the policy is {type(mapping).__name__}, expected an object that maps codes to categories"
            )
        return cls(tuple(_category(code, entry) for code, entry in mapping.items()))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> "Policy":
        """A policy from a JSON file in the form that `from_mapping` takes.

        Raises:
            PolicyError: the file cannot be read, is not a regular file, is larger than 1 MiB, or is not of that form.
                The error names the file.
        """
        mapping = read_json(path, PolicyError, _MAX_FILE_BYTES)
        try:
            return cls.from_mapping(mapping)
        except PolicyError as cause:
            raise PolicyError(f"{path}: {cause}") from cause

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes in order."""
        return tuple(category.code for category in self.categories)

    @property
    def is_default(self) -> bool:
        """Whether this is the model's own policy, unchanged."""
        return self == DEFAULT_POLICY

    @property
    def default_exclusions(self) -> tuple[str, ...] | None:
        """The codes of the default policy that this one omits; None if it differs in anything else."""
        if self.categories != tuple(c for c in DEFAULT_POLICY.categories if c.code in self):
            return None
        return tuple(code for code in DEFAULT_POLICY.codes if code not in self)

    def __contains__(self, code: object) -> bool:
        return code in self.codes

    def __getitem__(self, code: str) -> Category:
        """The category with a code.

        Raises:
            PolicyError: the policy has no such code. The error lists its codes.
        """
        for category in self.categories:
            if category.code == code:
                return category
        raise self._unknown(code)

    def exclude(self, codes: Iterable[str]) -> "Policy":
        """This policy without some of its categories.

        Raises:
            PolicyError: a code is unknown or given twice, or no category would be left.
        """
        if isinstance(codes, str):
            raise PolicyError(f"the codes to exclude are the string {codes!r}, expected a list of codes")
        excluded: list[str] = []
        for code in codes:
            if code not in self:
                raise self._unknown(code)
            if code in excluded:
                raise PolicyError(f"category {code} is excluded twice")
            excluded.append(code)
        left = tuple(category for category in self.categories if category.code not in excluded)
        if not left:
            raise PolicyError("every category is excluded: at least one must be left")
        return Policy(left)

    def prompt_categories(self) -> dict[str, str]:
        """The chat template's ``categories``: code to prompt text, in order."""
        return {category.code: category.prompt_text for category in self.categories}

    @property
    def digest(self) -> str:
        """A hash of what the prompt says of the categories."""
        return hashlib.sha256(json.dumps(self.prompt_categories()).encode()).hexdigest()

    def _unknown(self, code: object) -> PolicyError:
        return PolicyError(f"unknown category {code!r}; the policy has {', '.join(self.codes)}")


def _category(code: object, entry: object) -> Category:
    code = check_code(code)
    if isinstance(entry, str):
        return Category(code, entry)
    if not isinstance(entry, Mapping):
        raise PolicyError(f"{code}: found {type(entry).__name__}, expected a name or an object with a name")
    unknown = [key for key in entry if key not in {"name", "description"}]
    if unknown:
        raise PolicyError(f"{code}: unknown key {unknown[0]!r}, expected 'name' or 'description'")
    if "name" not in entry:
        raise PolicyError(f"{code}: the name is missing")
    return Category(code, entry["name"], entry.get("description"))


# The MLCommons taxonomy as it is spelled in the prompt of Llama Guard 3 11B Vision.
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
