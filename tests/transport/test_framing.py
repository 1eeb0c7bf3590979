"""The frame of a sent message, compared with the parser of websockets."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from tests.support.compiled import compiled
from wsfleet.transport import framing

SIZES = [0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 65543]


@pytest.fixture(scope="module", params=["python", "compiled"])
def client_frame(request):
    """Both versions of the function."""
    return (framing if request.param == "python" else compiled("wsfleet.transport._framing")).client_frame


def parse(data: bytes) -> Frame:
    """Parse the only frame of `data` as a server of websockets does."""
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=True, max_size=None)
    with pytest.raises(StopIteration) as done:
        next(parser)
    assert not reader.buffer
    return done.value.value


@given(st.one_of(st.text(), st.binary(), st.sampled_from(SIZES).map(bytes), st.sampled_from(SIZES).map("é".__mul__)))
def test_a_message_is_one_masked_frame(client_frame, message):
    """A server reads the message from its frame: text as text, bytes as binary."""
    frame = parse(client_frame(message))
    assert frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
    if isinstance(message, str):
        assert frame.opcode is Opcode.TEXT and bytes(frame.data) == message.encode()
    else:
        assert frame.opcode is Opcode.BINARY and bytes(frame.data) == message


def test_each_frame_has_a_new_key(client_frame):
    """Masking keys do not repeat, also after the pool of random bytes is used up (RFC 6455, section 5.3)."""
    keys = {client_frame(b"")[2:6] for _ in range(3 * framing.POOL // 4)}
    assert len(keys) > 3 * framing.POOL // 4 - 5  # a few of 2**32 may be equal by chance


def test_a_child_process_has_other_keys(client_frame):
    """A process that was forked does not use the masking keys of its parent."""
    client_frame(b"")
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        os.write(theirs, client_frame(b"")[2:6])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    assert os.read(ours, 4) != client_frame(b"")[2:6]
    os.close(ours)


def test_a_text_with_a_surrogate_is_refused(client_frame):
    """A str that UTF-8 cannot encode raises UnicodeEncodeError."""
    with pytest.raises(UnicodeEncodeError):
        client_frame("\ud800")
