"""Makes pages of what stands elsewhere: files of the repository's other folders, and what the code itself says.

A line `<!-- page: ../SECURITY.md -->` is replaced by that file, and `<!-- generated: configuration -->` by the
configuration reference. Links are made to lead to the page that a file has become; to a file that is no page, into the
folder `files` of the site, as a copy.
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
DECLARED_IN = ("options.py", "config/declare.py", "config/values.py", "fleet.py")


def pages() -> dict[Path, str]:
    """Which files of other folders are pages, and of what name."""
    return {(DOCS / name).resolve(): page.stem for page in DOCS.glob("*.md") for name in PAGE.findall(page.read_text())}


def relinked(text: str, folder: Path) -> str:
    """`text`, whose links begin in `folder`, as a page of the site has it; code is left alone."""
    known = pages()

    def lead(match: re.Match[str]) -> str:
        before, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (folder / target).resolve()
        if path in known:
            return f"{before}{known[path]}.md{anchor})"
        if path.parent == DOCS and path.suffix == ".md":
            return f"{before}{path.name}{anchor})"
        if path.is_dir():
            return before.strip("[](")  # a folder is no page; its name is left
        return f"{before}{os.path.relpath(path, DOCS)})" if path.exists() else match[0]  # MyST makes a download of it

    code = list(FENCE.finditer(text))
    edges = [0, *(edge for match in code for edge in match.span()), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(piece if number % 2 else LINK.sub(lead, piece) for number, piece in enumerate(pieces))


def make(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace a page's text by what is meant."""
    found = PAGE.search(source[0])
    text, folder = source[0], DOCS
    if found is not None:
        path = (DOCS / found[1]).resolve()
        app.env.note_dependency(str(path))
        text, folder = path.read_text("utf-8"), path.parent
    text = relinked(text, folder)
    if "<!-- generated: configuration -->" in text:
        text = text.replace("<!-- generated: configuration -->", REFERENCE)
        for file in DECLARED_IN:
            app.env.note_dependency(str(ROOT / "src" / "wsfleet" / file))
    # Entries of a table of contents that end with `*` are for pages that may be there, and need not.
    source[0] = OPTIONAL.sub(lambda entry: entry[0] if list(DOCS.glob(f"{entry[1]}*.md")) else "", text)


def plain_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show a default that is a constant of its module as what it is."""
    return signature and re.sub(r"= _([A-Z])([A-Z]+)\b", lambda m: f"= {m[1]}{m[2].lower()}()", signature), returned


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("source-read", make)
    return {"parallel_read_safe": True}
