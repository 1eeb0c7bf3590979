# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`wsfleet.endpoint.envelopes` compiled."""

from cpython.object cimport PyObject

from wsfleet.core.message import Message

cdef extern from *:
    """
    #include <structmember.h>

    /* Where an attribute of a type with slots lies in its objects; -1 where it isn't such an attribute. */
    static Py_ssize_t wsfleet_offset(PyObject *descriptor) {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }

    static PyObject *wsfleet_new(PyObject *type) {
        return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    }
    """
    Py_ssize_t wsfleet_offset(PyObject *descriptor)
    object wsfleet_new(object)

cdef extern from "Python.h":
    void Py_INCREF(PyObject *)
    object PyObject_CallOneArg(object, object)
    Py_ssize_t PyBytes_GET_SIZE(object)
    Py_ssize_t PyList_GET_SIZE(object)
    PyObject *PyDict_GetItemWithError(object, object) except? NULL
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    bint PyUnicode_IS_ASCII(object)


cdef enum:
    FIELDS = 7

# A message is made by filling its slots: its own initializer would look at each argument first.
cdef Py_ssize_t[FIELDS] PLACES
if len(Message.__struct_fields__) != FIELDS:
    raise ImportError("Message has other fields than this was compiled for")
for number, name in enumerate(Message.__struct_fields__):
    PLACES[number] = wsfleet_offset(<PyObject *>Message.__dict__[name])
    if PLACES[number] < 0:
        raise ImportError(f"Message.{name} is no slot")


cdef inline object made(PyObject **fields):
    message = wsfleet_new(Message)
    cdef char *slots = <char *><PyObject *>message
    cdef int number
    for number in range(FIELDS):
        Py_INCREF(fields[number])
        (<PyObject **>(slots + PLACES[number]))[0] = fields[number]
    return message


def envelopes(list payloads not None, decode, topic, endpoint, Py_ssize_t first, session, at, make_topic=None):
    cdef Py_ssize_t place, count = len(payloads), size, nbytes = 0
    cdef object index, length, data
    cdef PyObject *fields[FIELDS]
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
        if make_topic is not None:
            topic = PyObject_CallOneArg(make_topic, data)
            if topic is None:
                raise LookupError("the data lacks a field of the topic")
            fields[1] = <PyObject *>topic
        index, length = first + place, size
        fields[0] = <PyObject *>data
        fields[3] = <PyObject *>index
        fields[6] = <PyObject *>length
        messages.append(made(fields))
    return messages, nbytes


cdef class Intake:
    cdef object __weakref__
    cdef public object hub, routes, wire, last_message_at, early, replies, session
    cdef public long long received, received_bytes, published, first_index
    cdef public double last_data
    cdef object decode, topic, name, make_topic
    cdef bint plain
    cdef Py_ssize_t most

    def __init__(self, hub, routes, decode, topic, name, bint plain, Py_ssize_t most, make_topic):
        self.hub = hub
        self.routes = routes
        self.received = self.received_bytes = self.published = 0
        self.first_index = 1
        self.session = 0
        self.last_data = 0.0
        self.decode = decode
        self.topic = topic
        self.name = name
        self.plain = plain
        self.make_topic = make_topic
        self.most = most

    @property
    def chunk(self):
        cdef Py_ssize_t chunk = self.routes.chunk
        return min(self.most, chunk)

    def receive(self, list payloads not None, at, until):
        cdef Py_ssize_t count
        cdef PyObject *route
        self.last_data, self.last_message_at = self.wire.last_frame, at
        if not self.plain or self.early is not None or self.replies is not None:
            self._receive_others(payloads, at, until)
            return
        try:
            messages, nbytes = envelopes(
                payloads,
                self.decode,
                self.topic,
                self.name,
                self.first_index + self.received,
                self.session,
                at,
                self.make_topic,
            )
        except BaseException:
            self._receive_each(payloads, at, until)
            return
        count = PyList_GET_SIZE(messages)
        self.received += PyList_GET_SIZE(payloads)
        self.received_bytes += nbytes
        self.published += count
        hub = self.hub
        if self.make_topic is not None:
            self.deliver_mixed(hub, messages)
            if PyList_GET_SIZE(hub.ready):
                hub.begin_calls(until)
            return
        route = PyDict_GetItemWithError(self.routes, self.topic)
        if route == NULL:
            hub.dispatch(messages, nbytes, self.name, self.routes, self, until)
            return
        refused = hub.deliver(<object>route, messages, nbytes)
        if refused is not None:
            hub.put_refused(refused, messages, nbytes, self)
        if PyList_GET_SIZE(hub.ready):
            hub.begin_calls(until)

    cdef deliver_mixed(self, hub, list messages):
        """Deliver messages of several topics, in order. Consecutive messages with the same route go as one batch."""
        cdef Py_ssize_t begin = 0, end, count = PyList_GET_SIZE(messages)
        cdef PyObject *found
        routes = self.routes
        while begin < count:
            # A delivery may end a subscription, which clears the routes.
            topic = messages[begin].topic
            found = PyDict_GetItemWithError(routes, topic)
            route = hub._find(topic, self.name, routes) if found == NULL else <object>found
            nbytes, end = messages[begin].size, begin + 1
            while end < count:
                message = messages[end]
                found = PyDict_GetItemWithError(routes, message.topic)
                if found == NULL or <object>found is not route:
                    break
                nbytes += message.size
                end += 1
            run = messages if end - begin == count else messages[begin:end]
            refused = hub.deliver(route, run, nbytes)
            if refused is not None:
                hub.put_refused(refused, run, nbytes, self)
            begin = end

    def _receive_others(self, payloads, at, until):
        raise NotImplementedError

    def _receive_each(self, payloads, at, until):
        raise NotImplementedError
