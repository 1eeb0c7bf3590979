# cython: language_level=3, freethreading_compatible=True
"""Compiled versions of `scan` in `scanner.py` and `inflate` in `inflate.py`, with the same results for all inputs.

They never read beyond the end of `data`: a length is compared with the rest of the buffer before it is added to a
position, so a length of 64 bits cannot overflow.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from zlib import decompressobj

from websockets.exceptions import PayloadTooBig

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    unicode PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void *PyUnicode_DATA(unicode text)
    bint PyMemoryView_Check(object)
    const Py_buffer *PyMemoryView_GET_BUFFER(object)
    bint PyBuffer_IsContiguous(const Py_buffer *view, char order)

__all__ = ["inflate", "scan"]

ctypedef unsigned char byte

cdef enum:
    TEXT = 0x81  # FIN, no reserved bits, opcode 1
    BINARY = 0x82
    COMPRESSED = 0x40  # RSV1 (RFC 7692, section 7.2.3.1)
    ENOUGH = 65536
    END = 4


cdef struct Piece:
    const byte *place
    Py_ssize_t length


def scan(data not None, Py_ssize_t pos, limit, most, bint as_text, list out not None, Py_ssize_t end=PY_SSIZE_T_MAX):
    """Append the payloads of the plain frames from `pos` on to `out`, and return the position of the first other one."""
    cdef Py_ssize_t start, length, longest = bounded(limit), room = bounded(most)
    cdef Piece read = memory_of(data, pos)
    cdef const byte *buffer = read.place
    cdef byte head
    read.length = min(read.length, end)
    try:
        while room > 0 and read.length - pos >= 2:
            head = buffer[pos]
            if head != TEXT and head != BINARY:
                break
            start = payload_start(buffer, pos, read.length, longest, &length)
            if start < 0:
                break
            if head == TEXT and as_text:
                out.append(text_of(buffer + start, length))
            elif head == BINARY or is_utf8(buffer + start, length):
                out.append(PyBytes_FromStringAndSize(<const char *>buffer + start, length))
            else:
                break
            pos = start + length
            room -= 1
    except UnicodeDecodeError:
        pass
    return pos


def inflate(decoder, wbits, data not None, Py_ssize_t pos, limit, most, bint as_text, list out not None):
    """Append the compressed messages from `pos` on to `out`, and return the position of the first other frame."""
    cdef Py_ssize_t start, length, longest = bounded(limit), room = bounded(most), made = 0
    cdef Piece read = memory_of(data, pos)
    cdef const byte *buffer = read.place
    cdef byte head
    cdef bytes payload, message
    one_more = limit + 1
    while room > 0 and read.length - pos >= 2 and made < ENOUGH:
        head = buffer[pos]
        if head != (TEXT | COMPRESSED) and head != (BINARY | COMPRESSED):
            break
        start = payload_start(buffer, pos, read.length, longest, &length)
        if start < 0:
            break
        # Append the bytes that the sender removes from the end of each message (RFC 7692, section 7.2.2).
        payload = PyBytes_FromStringAndSize(NULL, length + END)
        memcpy(PyBytes_AS_STRING(payload), buffer + start, length)
        memcpy(PyBytes_AS_STRING(payload) + length, b"\x00\x00\xff\xff", END)
        own = decoder or decompressobj(wbits)
        message = own.decompress(payload, one_more)
        if PyBytes_GET_SIZE(message) > longest or own.unconsumed_tail:
            raise PayloadTooBig(None, limit)
        if head == (TEXT | COMPRESSED):
            if as_text:
                out.append(text_of(<const byte *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)))
            else:
                if not is_utf8(<const byte *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)):
                    message.decode()
                out.append(message)
        else:
            out.append(message)
        pos = start + length
        room -= 1
        made += PyBytes_GET_SIZE(message)
    return pos


cdef Piece memory_of(data, Py_ssize_t pos) except *:
    """Return the address and length of the bytes of `data`, valid for the lifetime of `data`."""
    cdef const Py_buffer *view
    if pos < 0:
        raise ValueError("pos must not be negative")
    if type(data) is bytes:
        return Piece(<const byte *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    if PyMemoryView_Check(data) and PyBuffer_IsContiguous(PyMemoryView_GET_BUFFER(data), b"C"):
        view = PyMemoryView_GET_BUFFER(data)
        return Piece(<const byte *>view.buf, view.len)
    raise TypeError("data must be bytes or a contiguous memoryview")


cdef inline Py_ssize_t payload_start(
    const byte *buffer, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t longest, Py_ssize_t *length
) noexcept nogil:
    """Return the start of the payload of the frame at `pos`, and set its `length`. At least 2 bytes must be present.

    Returns -1 for a frame that is masked, too long, or incomplete.
    """
    cdef Py_ssize_t start = pos + 2
    length[0] = buffer[pos + 1]
    if length[0] > 125:
        if length[0] == 126 and end - pos >= 4:
            length[0] = buffer[pos + 2] << 8 | buffer[pos + 3]
            start = pos + 4
        elif length[0] == 127 and end - pos >= 10:
            length[0] = long_length(buffer + pos + 2)
            start = pos + 10
        else:
            return -1
    return -1 if length[0] > end - start or length[0] > longest else start


cdef inline Py_ssize_t bounded(number) except? -1:
    """Return `number`, limited to PY_SSIZE_T_MAX, or -1 for negative numbers."""
    cdef int beyond = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &beyond)
    if beyond > 0 or (beyond == 0 and value > PY_SSIZE_T_MAX):
        return PY_SSIZE_T_MAX
    return -1 if beyond < 0 or value < 0 else <Py_ssize_t>value


cdef inline Py_ssize_t long_length(const byte *place) noexcept nogil:
    """Return the length in 8 bytes, in network byte order, limited to PY_SSIZE_T_MAX."""
    cdef uint64_t length = 0
    cdef int number
    for number in range(8):
        length = length << 8 | place[number]
    return PY_SSIZE_T_MAX if length > <uint64_t>PY_SSIZE_T_MAX else <Py_ssize_t>length


cdef inline unicode text_of(const byte *place, Py_ssize_t length):
    """Decode UTF-8. ASCII, the usual case, is only copied."""
    cdef unicode text
    if length < 2 or not is_ascii(place, length):
        return PyUnicode_DecodeUTF8(<const char *>place, length, NULL)
    text = PyUnicode_New(length, 127)
    memcpy(PyUnicode_DATA(text), place, length)
    return text


cdef inline bint is_ascii(const byte *place, Py_ssize_t length) noexcept nogil:
    """Return whether all bytes are ASCII. Tests eight bytes at a time; the last eight may overlap the ones before."""
    cdef uint64_t word, bits = 0
    cdef Py_ssize_t done = 0
    if length < 8:
        for done in range(length):
            bits |= place[done]
    else:
        while done < length - 8:
            memcpy(&word, place + done, 8)
            bits |= word
            done += 8
        memcpy(&word, place + length - 8, 8)
        bits |= word
    return not bits & <uint64_t>0x8080808080808080


cdef bint is_utf8(const byte *place, Py_ssize_t length) noexcept nogil:
    """Return whether the bytes are well-formed UTF-8 (RFC 3629, section 4), without creating a str."""
    cdef byte first, low, high
    if is_ascii(place, length):
        return True
    while length > 0:
        first = place[0]
        if first < 0x80:
            place += 1
            length -= 1
        elif first < 0xE0:
            if first < 0xC2 or length < 2 or not continues(place[1]):
                return False
            place += 2
            length -= 2
        elif first < 0xF0:
            if length < 3 or not (continues(place[1]) and continues(place[2])):
                return False
            # Reject overlong forms and surrogates.
            if first == 0xE0 and place[1] < 0xA0 or first == 0xED and place[1] > 0x9F:
                return False
            place += 3
            length -= 3
        else:
            if first > 0xF4 or length < 4 or not (continues(place[1]) and continues(place[2]) and continues(place[3])):
                return False
            # Reject overlong forms and code points beyond U+10FFFF.
            if first == 0xF0 and place[1] < 0x90 or first == 0xF4 and place[1] > 0x8F:
                return False
            place += 4
            length -= 4
    return True


cdef inline bint continues(byte value) noexcept nogil:
    return value & 0xC0 == 0x80
