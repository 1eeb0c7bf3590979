"""Text of a peer is safe on a terminal."""

import json

from hypothesis import given
from hypothesis import strategies as st

from wsfleet.core.text import printable


def test_leaves_text_alone() -> None:
    """Letters of all scripts, line feeds and tabs are kept."""
    text = "price:\t1,5 €\nцена 价格 🙂"
    assert printable(text) == text


def test_shows_escape_sequences_instead_of_obeying_them() -> None:
    """ESC, C1 controls, carriage return, bell and DEL are escaped."""
    assert printable("\x1b[2J\x9b2J\r\a\x7f") == r"\u001b[2J\u009b2J\u000d\u0007\u007f"


def test_shows_what_reorders_and_hides() -> None:
    """Characters that change the writing direction or are invisible are escaped."""
    assert printable("a\u202eb\u200bc\ufeff") == r"a\u202eb\u200bc\ufeff"


@given(st.text())
def test_json_means_the_same(text: str) -> None:
    """The value of a JSON document does not change."""
    document = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(printable(document)) == {"text": text}
