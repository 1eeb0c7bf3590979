# cython: language_level=3, freethreading_compatible=True
"""Compiled version of `client_frame` in `framing.py`."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_AsString, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

__all__ = ["client_frame"]

ctypedef unsigned char byte

cdef enum:
    POOL = 4096

cdef bytes pool = b""
cdef Py_ssize_t used = 0


def discard():
    """Discard the random bytes: two processes must not use the same keys."""
    global pool, used
    pool, used = b"", 0


os.register_at_fork(after_in_child=discard)


def client_frame(message not None):
    """Return the only frame of a text message (str) or a binary one (bytes), masked with a new random key."""
    global pool, used
    cdef Py_ssize_t length, place
    cdef const char *source
    cdef byte first
    if isinstance(message, str):
        first = 0x81
        source = PyUnicode_AsUTF8AndSize(message, &length)
    else:
        first = 0x82
        source = PyBytes_AsString(message)
        length = PyBytes_GET_SIZE(message)
    cdef Py_ssize_t head = 6 if length < 126 else 8 if length < 65536 else 14
    cdef bytes keys = pool  # another thread may replace it
    cdef Py_ssize_t start = used
    if start + 4 > PyBytes_GET_SIZE(keys):
        keys, start = os.urandom(POOL), 0
        pool = keys
    used = start + 4
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, head + length)
    cdef byte *out = <byte *>PyBytes_AS_STRING(frame)
    cdef byte *key = out + head - 4
    out[0] = first
    if length < 126:
        out[1] = 0x80 | <byte>length
    elif length < 65536:
        out[1] = 0x80 | 126
        out[2], out[3] = <byte>(length >> 8), <byte>length
    else:
        out[1] = 0x80 | 127
        for place in range(8):
            out[2 + place] = <byte>(<uint64_t>length >> (56 - 8 * place))
    memcpy(key, PyBytes_AS_STRING(keys) + start, 4)
    mask(out + head, source, length, key)
    return frame


cdef void mask(byte *out, const char *source, Py_ssize_t length, const byte *key) noexcept:
    """Copy `source` to `out`, masked with the four bytes of `key` (RFC 6455, section 5.3)."""
    cdef uint32_t half
    cdef uint64_t whole, word
    cdef Py_ssize_t place = 0
    memcpy(&half, key, 4)
    whole = half | (<uint64_t>half << 32)
    while length - place >= 8:
        memcpy(&word, source + place, 8)
        word ^= whole
        memcpy(out + place, &word, 8)
        place += 8
    while place < length:
        out[place] = <byte>source[place] ^ key[place & 3]
        place += 1
