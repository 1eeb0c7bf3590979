"""The scanner extracts plain frames, and only those, for any split of the stream."""

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.compiled import compiled
from tests.support.wirekit import BINARY, CONT, PING, TEXT, frame
from wsfleet.transport import scanner
from wsfleet.transport.scanner import HEADER_MAX, frame_end

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


@pytest.fixture(scope="module", params=["python", "compiled"])
def scan(request):
    """Both versions of the scanner."""
    return (scanner if request.param == "python" else compiled("wsfleet.transport._scanner")).scan


@pytest.fixture(scope="module")
def compiled_scan():
    return compiled("wsfleet.transport._scanner").scan


@given(st.lists(plain_frames, max_size=8), other_frames, st.binary(max_size=8))
def test_takes_all_plain_frames_and_stops_at_the_first_other(scan, plain, other, behind):
    """The scanner stops exactly at the first frame that is not plain."""
    stream = b"".join(raw for _, raw in plain)
    out = []
    assert scan(stream + other + behind, 0, LIMIT, 1000, True, out) == len(stream)
    assert out == [payload for payload, _ in plain]


@given(st.lists(plain_frames, max_size=8), st.binary(max_size=8), st.binary(max_size=8))
def test_reads_a_view_of_a_buffer_and_nothing_beside_it(scan, plain, before, behind):
    """Payloads are copied from a shared buffer, and bytes outside the view are not read."""
    stream = b"".join(raw for _, raw in plain)
    buffer = bytearray(before + stream + behind)
    view = memoryview(buffer)[len(before) : len(before) + len(stream)]
    out = []
    assert scan(view, 0, LIMIT, 1000, True, out) == len(stream)
    buffer[:] = bytes(len(buffer))
    assert out == [payload for payload, _ in plain]


@given(st.lists(plain_frames, max_size=8), st.data())
def test_an_incomplete_frame_is_left_where_it_begins(scan, plain, data):
    """For a truncated read, the scanner returns the complete frames and the position of the incomplete one."""
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
def test_takes_no_more_than_it_is_asked_for(scan, plain, most, before):
    """After `most` frames the scanner stops at a frame boundary, and can continue from there."""
    stream = before + b"".join(raw for _, raw in plain)
    first, rest = [], []
    pos = scan(stream, len(before), LIMIT, most, True, first)
    assert first == [payload for payload, _ in plain[:most]]
    assert pos == len(before) + sum(len(raw) for _, raw in plain[:most])
    assert scan(stream, pos, LIMIT, 1000, True, rest) == len(stream)
    assert rest == [payload for payload, _ in plain[most:]]


@given(st.lists(plain_frames, max_size=8), other_frames)
def test_without_text_the_same_frames_come_as_bytes(scan, plain, other):
    """With `as_text` false, the same frames are returned as bytes, and invalid UTF-8 still stops the scanner."""
    stream = b"".join(raw for _, raw in plain) + other
    texts_out, bytes_out = [], []
    assert scan(stream, 0, LIMIT, 1000, True, texts_out) == scan(stream, 0, LIMIT, 1000, False, bytes_out)
    assert bytes_out == [as_bytes(payload) for payload in texts_out]
    assert all(type(payload) is bytes for payload in bytes_out)


@given(st.binary(max_size=200), st.integers(0, LIMIT), st.integers(1, 50), st.booleans())
def test_any_bytes_whatever_are_scanned_without_an_error(scan, data, limit, most, as_text):
    """Arbitrary bytes never raise, never move the position back, and never exceed the limits."""
    out = []
    pos = scan(data, 0, limit, most, as_text, out)
    assert 0 <= pos <= len(data)
    assert len(out) <= most
    assert all(len(as_bytes(payload)) <= limit for payload in out)


raws = st.one_of(plain_frames.map(lambda pair: pair[1]), other_frames)
numbers = st.one_of(
    st.integers(-2, LIMIT + 2), st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**200, -(2**64)])
)


@st.composite
def buffers(draw):
    """Generate arbitrary bytes, or frames of all kinds with some bytes changed, truncated at any position."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=100))
    stream = bytearray(b"".join(draw(st.lists(raws, max_size=8))))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3)):
        if stream:
            stream[place % len(stream)] = value
    return bytes(stream[: draw(st.integers(0, len(stream)))])


@settings(max_examples=4 * settings().max_examples)
@given(buffers(), st.one_of(st.just(0), st.integers(0, 400), st.just(2**62)), numbers, numbers, st.booleans())
@example(bytes([0x82, 127]) + b"\xff" * 8 + b"x", 0, 2**200, 1, True)
@example(bytes([0x82, 127, 0x7F]) + b"\xff" * 7 + b"x", 0, 2**200, 1, True)
@example(bytes([0x82, 127]) + bytes(7) + b"\x01x", 0, 1, 2**64, True)
def test_both_twins_give_the_same(compiled_scan, data, pos, limit, most, as_text):
    """For all bytes, positions and limits, both versions return equal values of equal types."""
    mine, theirs = ["before"], ["before"]
    assert compiled_scan(data, pos, limit, most, as_text, mine) == scanner.scan(data, pos, limit, most, as_text, theirs)
    assert mine == theirs
    assert list(map(type, mine)) == list(map(type, theirs))


@pytest.mark.parametrize("as_text", [True, False])
def test_both_twins_know_utf_8(compiled_scan, as_text):
    """Both versions accept the same byte sequences around the limits of the UTF-8 ranges as text."""
    firsts = [0x00, 0x7F, 0x80, 0xBF, *range(0xC0, 0xC4), *range(0xDE, 0xE3), *range(0xEC, 0x100)]
    edges = [0x7F, 0x80, 0xBF, 0xC0]
    for first, second in product(firsts, range(256)):
        for rest in (b"", b"\x80", b"\xbf\x80", *map(bytes, product(edges, edges))):
            data = frame(TEXT, bytes([first, second]) + rest) + frame(TEXT, bytes([first]))
            mine, theirs = [], []
            assert compiled_scan(data, 0, LIMIT, 2, as_text, mine) == scanner.scan(data, 0, LIMIT, 2, as_text, theirs)
            assert mine == theirs


def test_objects_without_a_buffer_are_refused(compiled_scan):
    """The compiled scanner rejects objects that are not buffers, and negative positions."""
    for data, pos, out in [(b"\x82\x00", -1, []), (bytearray(2), 0, []), (None, 0, []), (b"\x82\x00", 0, ())]:
        with pytest.raises((TypeError, ValueError)):
            compiled_scan(data, pos, LIMIT, 1, True, out)
        assert not out


@given(raws, st.binary(max_size=8), st.binary(max_size=5))
def test_a_frames_end_is_found_from_any_part_of_its_header(raw, behind, before):
    """With a partial header, `frame_end` requests at most the size of the frame; with a complete one, it is exact."""
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
def test_an_invalid_frame_ends_with_its_header(raw, end):
    """For a mask, a reserved opcode or a payload over the limit, `frame_end` returns the end of the header."""
    assert frame_end(raw, 0, LIMIT) == end
