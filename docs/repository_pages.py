"""A hook of MkDocs: pages for the Markdown files outside ``docs/``, and links as they are in the repository."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Page -> file in the repository.
_PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
    "results.md": "benchmarks/RESULTS.md",
    "benchmarks.md": "benchmarks/README.md",
    "demo-guard.md": "visionward/demo_guard/README.md",
}
_FILES = {file: page for page, file in _PAGES.items()}
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    root = Path(config.config_file_path).parent
    for page, file in _PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(root / file)))
    return files


def on_page_markdown(markdown: str, page: Page, **_arguments: Any) -> str:
    """Point links to pages. Of a link to a file that is no page, text and path are left."""
    folder = posixpath.dirname(_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def pointed(link: re.Match[str]) -> str:
        text, path, anchor = link[1], posixpath.normpath(posixpath.join(folder, link[2])), link[3] or ""
        if path in _FILES:
            return f"[{text}]({_FILES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})"
        return f"{text} (`{path}` in the source)"

    return _LINK.sub(pointed, markdown)
