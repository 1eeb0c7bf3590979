"""Checks that the built site needs no other host, and that no page loads a missing file.

    python -m tools.check_site build/docs

Links may lead to other sites, but files that a browser loads by itself must be local.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "object": "data",
    "embed": "src",
    "link": "href",
}
NOT_LOADED = {"canonical", "next", "prev", "index", "search", "author", "copyright"}
"""Kinds of `<link>` that a browser does not load."""


class Loads(HTMLParser):
    """Collects the files that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and set((given.get("rel") or "").split()) & NOT_LOADED:
            return
        address = given.get(LOADED.get(tag, ""))
        if address:
            self.found.append(address)


def faults(site: Path) -> Iterator[str]:
    """Yield the external and the missing files that pages and their styles load."""
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        for address in loads.found:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                yield f"{page.relative_to(site)}: loads {address}"
            elif not (page.parent / unquote(parts.path)).exists():
                yield f"{page.relative_to(site)}: there is no {address}"
    for style in site.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", style.read_text("utf-8")):
            yield f"{style.relative_to(site)}: loads {address}"


def main() -> int:
    site = Path(sys.argv[1])
    found = list(faults(site))
    for fault in found:
        print(fault)
    print(f"{len(list(site.rglob('*.html')))} pages in {site}, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
