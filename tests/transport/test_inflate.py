"""Both versions of `inflate` extract complete compressed messages, and only those."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig

from tests.support.compiled import compiled
from tests.support.wirekit import BINARY, PING, TEXT, frame
from wsfleet.transport import inflate as python

LIMIT = 400
COMPRESSED = 4  # RSV1
END = b"\x00\x00\xff\xff"


class Sender:
    """Compresses messages as a server does, with or without context takeover."""

    def __init__(self, afresh: bool) -> None:
        self._afresh = afresh
        self._encoder = zlib.compressobj(wbits=-15)

    def frame(self, opcode, payload, form=0):
        if self._afresh:
            self._encoder = zlib.compressobj(wbits=-15)
        data = self._encoder.compress(payload) + self._encoder.flush(zlib.Z_SYNC_FLUSH)
        return frame(opcode, data.removesuffix(END), reserved=COMPRESSED, form=form)


texts = st.text(max_size=60).map(lambda text: (TEXT, text.encode()))
binaries = st.one_of(st.binary(max_size=60), st.integers(0, LIMIT).map(bytes)).map(lambda data: (BINARY, data))
messages = st.lists(st.tuples(st.one_of(texts, binaries), st.sampled_from([0, 0, 16, 64])), max_size=6)


@pytest.fixture(scope="module", params=["python", "compiled"])
def inflate(request):
    """Both versions of `inflate`."""
    return (python if request.param == "python" else compiled("wsfleet.transport._scanner")).inflate


@pytest.fixture(scope="module")
def compiled_inflate():
    return compiled("wsfleet.transport._scanner").inflate


def decoder(afresh):
    return None if afresh else zlib.decompressobj(wbits=-15)


def outcome(inflate, afresh, *args):
    """Return the result for a read: the position, the messages, and the exception."""
    out = []
    try:
        return inflate(decoder(afresh), -15, *args, out), out
    except (zlib.error, PayloadTooBig, UnicodeDecodeError) as exc:
        return type(exc), str(exc), out


@given(messages, st.booleans(), st.booleans(), st.binary(max_size=4))
def test_takes_all_compressed_messages(inflate, messages, afresh, as_text, before):
    """All complete messages are extracted unchanged, up to the first other frame."""
    sender = Sender(afresh)
    stream = before + b"".join(sender.frame(*message, form) for message, form in messages)
    out = []
    read = memoryview(stream + frame(PING, b"x"))
    assert inflate(decoder(afresh), -15, read, len(before), LIMIT, 1000, as_text, out) == len(stream)
    assert out == [data.decode() if opcode == TEXT and as_text else data for (opcode, data), _ in messages]


@settings(max_examples=2 * settings().max_examples)
@given(messages, st.booleans(), st.booleans(), st.integers(0, 8), st.data())
def test_the_twins_give_the_same(compiled_inflate, messages, afresh, as_text, most, data):
    """For truncated and changed bytes and any limit, both versions return and raise the same."""
    sender = Sender(afresh)
    stream = bytearray(b"".join(sender.frame(*message, form) for message, form in messages))
    for _ in range(data.draw(st.integers(0, 2)) if stream else 0):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    read = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    limit, pos = data.draw(st.integers(0, LIMIT)), data.draw(st.integers(0, len(read)))
    args = (read, pos, limit, most, as_text)
    assert outcome(python.inflate, afresh, *args) == outcome(compiled_inflate, afresh, *args)


def test_inflate_returns_after_64_kib(inflate):
    """`inflate` returns after 64 KiB of inflated data."""
    sender = Sender(afresh=True)
    one = sender.frame(BINARY, bytes(2**15))
    out = []
    assert inflate(None, -15, one * 10, 0, 2**20, 1000, True, out) == 2 * len(one)
    assert [len(message) for message in out] == [2**15, 2**15]


def test_only_bytes_and_contiguous_views_are_accepted(compiled_inflate):
    """The compiled version accepts only bytes and contiguous memoryviews."""
    for wrong in ("text", [1], memoryview(bytes(8))[::2]):
        with pytest.raises(TypeError):
            compiled_inflate(None, -15, wrong, 0, LIMIT, 1, True, [])
    with pytest.raises(ValueError, match="pos"):
        compiled_inflate(None, -15, b"", -1, LIMIT, 1, True, [])
