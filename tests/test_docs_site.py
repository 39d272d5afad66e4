"""The site of the documentation: no page is left out, and no public name. `mkdocs build` checks the links."""

import re
from pathlib import Path

import visionward

ROOT = Path(__file__).parents[1]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    hook = (ROOT / "docs" / "repository_pages.py").read_text(encoding="utf-8")
    made = dict(re.findall(r'"([\w-]+\.md)": "([\w/]+\.md)"', hook))
    assert all((ROOT / file).is_file() for file in made.values())
    assert sorted(listed) == sorted([*(page.name for page in (ROOT / "docs").glob("*.md")), *made])


def test_every_public_name_is_in_the_reference():
    described = re.findall(
        r"^::: visionward\.(\w+)$", (ROOT / "docs" / "reference.md").read_text("utf-8"), re.MULTILINE
    )
    public = [name for name in visionward.__all__ if not name.endswith("Error")]
    assert sorted(described) == sorted([*public, "errors"])
