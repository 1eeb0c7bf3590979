# cython: language_level=3, freethreading_compatible=True
"""The scanner, compiled. What it does is told in `scanner.py`; it has the same results, for all bytes whatever.

It reads what is in `data` and nothing beside it: a length is compared with what is left of the buffer before anything
is added to it, so one of 64 bits cannot overflow.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    unicode PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void *PyUnicode_DATA(unicode text)
    bint PyMemoryView_Check(object)
    const Py_buffer *PyMemoryView_GET_BUFFER(object)
    bint PyBuffer_IsContiguous(const Py_buffer *view, char order)

__all__ = ["scan"]

ctypedef unsigned char byte

cdef enum:
    TEXT = 0x81  # FIN, no reserved bits, opcode 1
    BINARY = 0x82


def scan(data not None, Py_ssize_t pos, limit, most, bint as_text, list out not None):
    """Append the payloads of the plain frames from `pos` on to `out`; return where the first other thing begins."""
    cdef const byte *buffer
    cdef Py_ssize_t end, start, length, longest = bounded(limit), room = bounded(most)
    cdef const Py_buffer *view
    cdef byte head
    if type(data) is bytes:
        buffer, end = <const byte *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
    elif PyMemoryView_Check(data) and PyBuffer_IsContiguous(PyMemoryView_GET_BUFFER(data), b"C"):
        view = PyMemoryView_GET_BUFFER(data)
        buffer, end = <const byte *>view.buf, view.len
    else:
        raise TypeError("data is bytes, or a memoryview of a piece of memory")
    if pos < 0:
        raise ValueError("pos is a place in data, from 0 on")
    try:
        while room > 0 and end - pos >= 2:
            head = buffer[pos]
            if head != TEXT and head != BINARY:
                break
            length = buffer[pos + 1]
            start = pos + 2
            if length > 125:
                if length == 126 and end - pos >= 4:
                    length = buffer[pos + 2] << 8 | buffer[pos + 3]
                    start = pos + 4
                elif length == 127 and end - pos >= 10:
                    length = long_length(buffer + pos + 2)
                    start = pos + 10
                else:
                    break
            if length > end - start or length > longest:
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


cdef inline Py_ssize_t bounded(number) except? -1:
    """Return `number`, but the largest size there is for what lies beyond, and -1 for all below 0."""
    cdef int beyond = 0
    cdef long long value = PyLong_AsLongLongAndOverflow(number, &beyond)
    if beyond > 0 or (beyond == 0 and value > PY_SSIZE_T_MAX):
        return PY_SSIZE_T_MAX
    return -1 if beyond < 0 or value < 0 else <Py_ssize_t>value


cdef inline Py_ssize_t long_length(const byte *place) noexcept nogil:
    """Return the length that 8 bytes tell; the largest size there is for what lies beyond."""
    cdef uint64_t length = 0
    cdef int number
    for number in range(8):
        length = length << 8 | place[number]
    return PY_SSIZE_T_MAX if length > <uint64_t>PY_SSIZE_T_MAX else <Py_ssize_t>length


cdef inline unicode text_of(const byte *place, Py_ssize_t length):
    """Decode UTF-8. Most text is ASCII, which only has to be copied."""
    cdef unicode text
    if length < 2 or not is_ascii(place, length):
        return PyUnicode_DecodeUTF8(<const char *>place, length, NULL)
    text = PyUnicode_New(length, 127)
    memcpy(PyUnicode_DATA(text), place, length)
    return text


cdef inline bint is_ascii(const byte *place, Py_ssize_t length) noexcept nogil:
    """Tell whether no byte has its highest bit set, eight at a time; the last eight may overlap those before."""
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
    """Tell whether all bytes are well-formed UTF-8 (RFC 3629, section 4), without making a str of them."""
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
            # Neither an overlong form nor a surrogate.
            if first == 0xE0 and place[1] < 0xA0 or first == 0xED and place[1] > 0x9F:
                return False
            place += 3
            length -= 3
        else:
            if first > 0xF4 or length < 4 or not (continues(place[1]) and continues(place[2]) and continues(place[3])):
                return False
            # Neither an overlong form nor beyond U+10FFFF.
            if first == 0xF0 and place[1] < 0x90 or first == 0xF4 and place[1] > 0x8F:
                return False
            place += 4
            length -= 4
    return True


cdef inline bint continues(byte value) noexcept nogil:
    return value & 0xC0 == 0x80
