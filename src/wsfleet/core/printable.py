"""Makes a peer's text safe for a terminal."""

from __future__ import annotations

import re

__all__ = ["one_line", "printable"]

# What a terminal would obey rather than show: C0 and C1 controls (escape sequences begin with one), DEL; and the
# format characters that reorder or hide what stands around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return `text` with its control characters, but for line feeds and tabs, written as `\u001b` and the like.

    In JSON this changes nothing but the spelling.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str) -> str:
    r"""Return `text` printable, and its line feeds as `\n`, so that it cannot forge another line of a log."""
    return printable(text).replace("\n", "\\n")
