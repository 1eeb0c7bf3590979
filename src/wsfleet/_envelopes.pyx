# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`wsfleet.envelopes` compiled."""

from cpython.object cimport PyObject

from wsfleet.message import Message

cdef extern from "Python.h":
    object PyObject_CallOneArg(object, object)
    object PyObject_Vectorcall(object, PyObject **, size_t, PyObject *)
    Py_ssize_t PyBytes_GET_SIZE(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    bint PyUnicode_IS_ASCII(object)


def envelopes(list payloads not None, decode, topic, endpoint, Py_ssize_t first, session, at):
    cdef Py_ssize_t place, count = len(payloads), size, nbytes = 0
    cdef object index, length, data
    cdef PyObject *fields[7]
    messages = []
    fields[1] = <PyObject *>topic
    fields[2] = <PyObject *>endpoint
    fields[4] = <PyObject *>session
    fields[5] = <PyObject *>at
    for place in range(count):
        payload = payloads[place]
        if type(payload) is bytes:
            size = PyBytes_GET_SIZE(payload)
        elif PyUnicode_IS_ASCII(payload):
            size = PyUnicode_GET_LENGTH(payload)
        else:
            size = len(<bytes>payload.encode())
        nbytes += size
        data = payload if decode is None else PyObject_CallOneArg(decode, payload)
        index, length = first + place, size
        fields[0] = <PyObject *>data
        fields[3] = <PyObject *>index
        fields[6] = <PyObject *>length
        messages.append(PyObject_Vectorcall(Message, fields, 7, NULL))
    return messages, nbytes
