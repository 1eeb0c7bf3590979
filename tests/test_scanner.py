"""The scanner: takes plain frames, and nothing else, wherever a read was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wirekit import BINARY, CONT, PING, TEXT, frame
from wsfleet.wire.scanner import HEADER_MAX, frame_end, scan

LIMIT = 300
payloads = st.one_of(st.binary(max_size=20), st.sampled_from([125, 126, 127, LIMIT]).map(bytes))
texts = st.text(max_size=20).map(str.encode)
forms = st.sampled_from([0, 0, 0, 16, 64])
plain_frames = st.one_of(
    st.builds(lambda payload, form: (payload, frame(BINARY, payload, form=form)), payloads, forms),
    st.builds(lambda payload, form: (payload.decode(), frame(TEXT, payload, form=form)), texts, forms),
)
NOT_UTF8 = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
other_frames = st.one_of(
    st.builds(frame, st.sampled_from([CONT, PING, 3, 8, 10, 15]), st.binary(max_size=20)),
    st.builds(lambda opcode, payload: frame(opcode, payload, fin=False), st.sampled_from([TEXT, BINARY]), texts),
    st.builds(lambda payload, bits: frame(BINARY, payload, reserved=bits), payloads, st.integers(1, 7)),
    st.builds(lambda payload: frame(TEXT, payload, mask=b"mask"), texts),
    st.builds(lambda payload: frame(TEXT, payload), st.sampled_from(NOT_UTF8)),
    st.just(frame(BINARY, bytes(LIMIT + 1))),
)


def as_bytes(payload):
    return payload.encode() if isinstance(payload, str) else payload


@given(st.lists(plain_frames, max_size=8), other_frames, st.binary(max_size=8))
def test_takes_all_plain_frames_and_stops_at_the_first_other(plain, other, behind):
    """Whatever stands behind plain frames, the scanner stops exactly where the first other frame begins."""
    stream = b"".join(raw for _, raw in plain)
    out = []
    assert scan(stream + other + behind, 0, LIMIT, 1000, True, out) == len(stream)
    assert out == [payload for payload, _ in plain]


@given(st.lists(plain_frames, max_size=8), st.data())
def test_an_incomplete_frame_is_left_where_it_begins(plain, data):
    """A read that is cut anywhere gives the frames that are whole, and the place where the cut one begins."""
    stream = b"".join(raw for _, raw in plain)
    cut = data.draw(st.integers(0, len(stream)))
    ends, end = [], 0
    for _, raw in plain:
        end += len(raw)
        if end <= cut:
            ends.append(end)
    out = []
    assert scan(stream[:cut], 0, LIMIT, 1000, True, out) == (ends[-1] if ends else 0)
    assert out == [payload for payload, _ in plain[: len(ends)]]


@given(st.lists(plain_frames, max_size=8), st.integers(0, 10), st.binary(max_size=5))
def test_takes_no_more_than_it_is_asked_for(plain, most, before):
    """After `most` frames the scanner stops at a frame's edge, from wherever it began, and can go on from there."""
    stream = before + b"".join(raw for _, raw in plain)
    first, rest = [], []
    pos = scan(stream, len(before), LIMIT, most, True, first)
    assert first == [payload for payload, _ in plain[:most]]
    assert pos == len(before) + sum(len(raw) for _, raw in plain[:most])
    assert scan(stream, pos, LIMIT, 1000, True, rest) == len(stream)
    assert rest == [payload for payload, _ in plain[most:]]


@given(st.lists(plain_frames, max_size=8), other_frames)
def test_without_text_the_same_frames_come_as_bytes(plain, other):
    """Asked for bytes, the scanner takes the very same frames, and stops at text that isn't UTF-8 all the same."""
    stream = b"".join(raw for _, raw in plain) + other
    texts_out, bytes_out = [], []
    assert scan(stream, 0, LIMIT, 1000, True, texts_out) == scan(stream, 0, LIMIT, 1000, False, bytes_out)
    assert bytes_out == [as_bytes(payload) for payload in texts_out]
    assert all(type(payload) is bytes for payload in bytes_out)


@given(st.binary(max_size=200), st.integers(0, LIMIT), st.integers(1, 50), st.booleans())
def test_any_bytes_whatever_are_scanned_without_an_error(data, limit, most, as_text):
    """Garbage never raises, never moves back, and never gives more or longer payloads than allowed."""
    out = []
    pos = scan(data, 0, limit, most, as_text, out)
    assert 0 <= pos <= len(data)
    assert len(out) <= most
    assert all(len(as_bytes(payload)) <= limit for payload in out)


@given(st.one_of(plain_frames.map(lambda pair: pair[1]), other_frames), st.binary(max_size=8), st.binary(max_size=5))
def test_a_frames_end_is_found_from_any_part_of_its_header(raw, behind, before):
    """With a part of the header, `frame_end` asks for more, but never for more than the frame; with all, it knows."""
    stream = before + raw + behind
    pos = len(before)
    needed = pos
    for have in range(pos, len(stream) + 1):
        if have < needed:
            continue
        needed = frame_end(stream[:have], pos, LIMIT)
        assert pos < needed <= pos + len(raw)
        if needed <= have:
            break
    assert needed == frame_end(stream, pos, LIMIT)


@pytest.mark.parametrize(
    ("raw", "end"),
    [
        (frame(TEXT, b"hello", mask=b"mask"), 2),
        (frame(3, bytes(20)), 2),
        (frame(7, bytes(20)), 2),
        (frame(11, bytes(20)), 2),
        (frame(15, bytes(200)), 2),
        (frame(BINARY, bytes(LIMIT + 1)), 4),
        (frame(BINARY, bytes(LIMIT + 1), form=64), HEADER_MAX),
        (bytes([0x82, 127]) + b"\xff" * 8, HEADER_MAX),
        (frame(BINARY, bytes(LIMIT)), LIMIT + 4),
        (frame(PING, b"1234"), 6),
    ],
)
def test_nobody_waits_for_the_payload_of_a_frame_that_can_only_fail(raw, end):
    """A mask, a reserved opcode and a payload over the limit end with the header that shows them."""
    assert frame_end(raw, 0, LIMIT) == end
