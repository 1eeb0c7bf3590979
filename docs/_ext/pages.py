"""Adds pages to the site from files outside docs/ and from the code.

A line `<!-- page: ../SECURITY.md -->` is replaced by that file, and `<!-- generated: configuration -->` by the
configuration reference. A link to a file that has a page leads to this page; any other linked file becomes a download.
"""

import itertools
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from tools.config_reference import reference

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

PAGE = re.compile(r"^<!-- page: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")
OPTIONAL = re.compile(r"^([\w-]+)\*\n", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

# Made before autodoc looks at the code, since it changes what signatures say.
REFERENCE = reference()
DECLARED_IN = (
    "core/keywords.py",
    "core/options.py",
    "config/build.py",
    "config/values.py",
    "fleet/declarations.py",
    "fleet/fleet.py",
)


def pages() -> dict[Path, str]:
    """Return the files outside docs/ that have a page, with its name."""
    return {(DOCS / name).resolve(): page.stem for page in DOCS.glob("*.md") for name in PAGE.findall(page.read_text())}


def relinked(text: str, folder: Path, page: Path) -> str:
    """Return `text`, whose links are relative to `folder`, with links as `page` needs them. Code is not changed."""
    known = pages()

    def to(target: Path) -> str:
        return Path(os.path.relpath(target, page.parent)).as_posix()

    def lead(match: re.Match[str]) -> str:
        before, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (folder / target).resolve()
        if path in known:
            return f"{before}{to(DOCS / known[path])}.md{anchor})"
        if path.is_relative_to(DOCS) and path.suffix == ".md":
            return f"{before}{to(path)}{anchor})"
        if path.is_dir():
            return before.strip("[](")  # a folder has no page, so only its name stays
        return f"{before}{to(path)})" if path.exists() else match[0]  # MyST makes it a download

    code = list(FENCE.finditer(text))
    edges = [0, *(edge for match in code for edge in match.span()), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(piece if number % 2 else LINK.sub(lead, piece) for number, piece in enumerate(pieces))


def make(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the source of a page by its final Markdown."""
    found = PAGE.search(source[0])
    page = Path(app.env.doc2path(name))
    text, folder = source[0], page.parent
    if found is not None:
        path = (DOCS / found[1]).resolve()
        app.env.note_dependency(str(path))
        text, folder = path.read_text("utf-8"), path.parent
    text = relinked(text, folder, page)
    if "<!-- generated: configuration -->" in text:
        text = text.replace("<!-- generated: configuration -->", REFERENCE)
        for file in DECLARED_IN:
            app.env.note_dependency(str(ROOT / "src" / "wsfleet" / file))
    # Entries of a table of contents that end with `*` stand for optional pages.
    source[0] = OPTIONAL.sub(lambda entry: entry[0] if list(DOCS.glob(f"{entry[1]}*.md")) else "", text)


def plain_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show a default that is a constant of its module as the call that makes it."""
    return signature and re.sub(r"= _([A-Z])([A-Z]+)\b", lambda m: f"= {m[1]}{m[2].lower()}()", signature), returned


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("source-read", make)
    return {"parallel_read_safe": True}
