# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`wsfleet.pipeline.queue` in Cython. The classes and methods are documented there."""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_CLEAR, Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import sys
from asyncio import get_running_loop
from types import GenericAlias

cimport cython

from wsfleet.core import time_slice
from wsfleet.core.message import Message

cdef extern from *:
    """
    #include <structmember.h>

    /* The cycle counter of the CPU. Without one, a counter that exceeds TICKS at each call. */
    static inline unsigned long long wsfleet_ticks(void) {
    #if defined(__x86_64__) || defined(__i386__)
        return __builtin_ia32_rdtsc();
    #else
        static unsigned long long ticks = 0;
        return ticks += 1 << 20;
    #endif
    }

    /* A Python subclass looks up `__anext__` by name at each call; use the slot of the base class instead. */
    static void wsfleet_inherit_am_anext(PyTypeObject *type, PyTypeObject *base) {
        type->tp_as_async->am_anext = base->tp_as_async->am_anext;
    }

    static void wsfleet_set_am_send(PyTypeObject *type, sendfunc send) { type->tp_as_async->am_send = send; }

    /* The offset of an attribute defined with __slots__; -1 if the attribute is not such a member. */
    static Py_ssize_t wsfleet_offset(PyObject *descriptor) {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    """
    unsigned long long wsfleet_ticks() noexcept
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **) noexcept
    PySendResult PyIter_Send(PyObject *iterator, PyObject *value, PyObject **result) except PYGEN_ERROR
    void wsfleet_inherit_am_anext(PyTypeObject *type, PyTypeObject *base)
    void wsfleet_set_am_send(PyTypeObject *type, sendfunc send)
    Py_ssize_t wsfleet_offset(PyObject *descriptor)

cdef extern from "Python.h":
    Py_ssize_t PyLong_AsSsize_t(object) except? -1
    PyTypeObject *Py_TYPE(object)
    unsigned long PyThread_get_thread_ident()
    object PyObject_CallOneArg(object, object)
    bint PyCoro_CheckExact(object)
    Py_ssize_t PyList_GET_SIZE(object)
    PyObject *PyList_GET_ITEM(object, Py_ssize_t)


cdef double SLICE_S = time_slice.SLICE_S

cdef unsigned long long TICKS = 100_000  # 20 microseconds at 5 GHz

cdef Py_ssize_t SMALLEST = 8, SPARE = 256  # capacities of a ring, in messages; 256 take 2 KiB

cdef PyTypeObject *MESSAGE = <PyTypeObject *>Message
cdef Py_ssize_t SIZE_AT = wsfleet_offset(<PyObject *>Message.__dict__["size"])


cdef inline object take_over(PyObject *owned):
    result = <object>owned
    Py_DECREF(result)
    return result


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *)

cdef inline double now() noexcept nogil:
    # The clock of time.perf_counter().
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <double>time.tv_sec + <double>time.tv_nsec * 1e-9


cdef inline Py_ssize_t size_of(message) except? -1:
    if Py_TYPE(message) is MESSAGE and SIZE_AT >= 0:
        return PyLong_AsSsize_t(<object>(<PyObject **>(<char *><PyObject *>message + SIZE_AT))[0])
    return message.size


@cython.final
cdef class Fifo:
    """A ring buffer, in place of the `deque` of the reference. Like Message, the garbage collector does not track it."""

    cdef PyObject **ring
    cdef Py_ssize_t capacity, first, count  # the capacity is a power of two

    def __dealloc__(self):
        while self.count:
            self.popped()
        free(self.ring)

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([<object>self.at(place)[0] for place in range(self.count)])

    def __delitem__(self, Py_ssize_t place):
        if not 0 <= place < self.count:
            raise IndexError(place)
        gone = <object>self.at(place)[0]
        while place < self.count - 1:
            self.at(place)[0] = self.at(place + 1)[0]
            place += 1
        self.count -= 1
        Py_DECREF(gone)

    def append(self, message):
        self.push(message)

    def extend(self, list messages not None):
        self.push_all(messages)

    def popleft(self):
        if not self.count:
            raise IndexError("pop from an empty Fifo")
        return self.popped()

    cdef inline PyObject **at(self, Py_ssize_t place) noexcept:
        return &self.ring[(self.first + place) & (self.capacity - 1)]

    cdef inline int push(self, message) except -1:
        if self.count == self.capacity:
            self.resize(max(SMALLEST, 2 * self.capacity))
        Py_INCREF(message)
        self.at(self.count)[0] = <PyObject *>message
        self.count += 1
        return 0

    cdef int push_all(self, list messages) except -1:
        cdef Py_ssize_t place, count = PyList_GET_SIZE(messages), capacity = max(SMALLEST, self.capacity)
        while capacity < self.count + count:
            capacity *= 2
        if capacity > self.capacity:
            self.resize(capacity)
        for place in range(count):
            Py_INCREF(<object>PyList_GET_ITEM(messages, place))
            self.at(self.count + place)[0] = PyList_GET_ITEM(messages, place)
        self.count += count
        return 0

    cdef inline object popped(self):
        cdef PyObject *message = self.ring[self.first]
        self.first = (self.first + 1) & (self.capacity - 1)
        self.count -= 1
        if self.count == 0 and self.capacity > SPARE:
            self.resize(0)
        return take_over(message)

    cdef int resize(self, Py_ssize_t capacity) except -1:
        cdef PyObject **ring = NULL
        cdef Py_ssize_t place
        if capacity:
            ring = <PyObject **>malloc(capacity * sizeof(PyObject *))
            if ring == NULL:
                raise MemoryError
            for place in range(self.count):
                ring[place] = self.at(place)[0]
        free(self.ring)
        self.ring, self.capacity, self.first = ring, capacity, 0
        return 0


cdef class BoundedQueue:
    cdef object __weakref__
    cdef readonly object waiting
    cdef Fifo fifo  # `waiting` if it is a Fifo, else None
    cdef public bint plain, watched, closed, finishing
    cdef public Py_ssize_t set_aside, in_hand, pending_bytes, most, most_bytes
    cdef public long long offered, processed, failed, dropped
    cdef public list waiters, idle_waiters

    def __init__(self, waiting, most, most_bytes, *, plain):
        self.waiting = waiting
        self.fifo = waiting if isinstance(waiting, Fifo) else None
        self.plain = plain
        self.watched = self.closed = self.finishing = False
        self.set_aside = self.in_hand = self.pending_bytes = 0
        self.offered = self.processed = self.failed = self.dropped = 0
        self.waiters = []
        self.idle_waiters = []
        self.most = min(most, sys.maxsize)
        self.most_bytes = min(most_bytes, sys.maxsize)

    @property
    def pending(self):
        return self.count() + self.set_aside + self.in_hand

    cdef inline Py_ssize_t count(self) except -1:
        return self.fifo.count if self.fifo is not None else len(self.waiting)

    def append_all(self, list messages not None, Py_ssize_t nbytes):
        return self.appended(messages, nbytes)

    cdef bint appended(self, list messages, Py_ssize_t nbytes) except -1:
        cdef Py_ssize_t count = PyList_GET_SIZE(messages)
        if (
            not self.plain
            or self.fifo is None
            or self.fifo.count + self.set_aside + self.in_hand + count >= self.most
            or self.pending_bytes + nbytes >= self.most_bytes
        ):
            return False
        self.offered += count
        self.fifo.push_all(messages)
        self.pending_bytes += nbytes
        if PyList_GET_SIZE(self.waiters):
            self.wake_all()
        return True

    def wake(self):
        self.wake_all()

    cdef inline int wake_all(self) except -1:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return 0

    cdef inline int leave(self) except -1:
        if self.watched or PyList_GET_SIZE(self.idle_waiters):
            self.left()
        return 0

    cdef inline object popped(self):
        if self.fifo is None or not self.fifo.count:
            return self.waiting.popleft()
        return self.fifo.popped()

    cdef inline object next_out(self):
        message = self.popped()
        self.pending_bytes -= size_of(message)
        self.processed += 1
        self.leave()
        return message

    cdef inline object next_in_hand(self):
        message = self.popped()
        self.in_hand += 1
        return message

    cdef inline int settle(self, message) except -1:
        self.in_hand -= 1
        self.pending_bytes -= size_of(message)
        return self.leave()

    def hand_out(self):
        return self.next_out()

    def begin(self):
        return self.next_in_hand()

    def settled(self, message):
        self.settle(message)

    def left(self):
        raise NotImplementedError


cdef class Dispatcher:
    cdef object __weakref__
    cdef public long long published, routed, unrouted, deliveries

    def deliver(self, tuple route not None, list messages not None, Py_ssize_t nbytes):
        cdef Py_ssize_t count = PyList_GET_SIZE(messages)
        cdef list refused = None
        self.published += count
        if not route:
            self.unrouted += count
            return None
        self.routed += count
        self.deliveries += count * len(route)
        for bounded in route:
            if not (<BoundedQueue?>bounded).appended(messages, nbytes):
                if refused is None:
                    refused = []
                refused.append(bounded)
        return refused


cdef class MessageIterator:
    cdef public BoundedQueue _bounded
    cdef public bint _keeps, _ready
    cdef public double _until
    cdef public object _message
    cdef unsigned long long ticks
    cdef unsigned long thread
    cdef object create_future

    def __init__(self, BoundedQueue mailbox not None, bint keeps=False):
        self._bounded = mailbox
        self._keeps = keeps
        self._ready = True
        self._until = 0.0
        self._message = None
        if type(self).__anext__ is MessageIterator.__anext__:
            wsfleet_inherit_am_anext(Py_TYPE(self), <PyTypeObject *>MessageIterator)

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef BoundedQueue bounded = self._bounded
        self.count_message()
        if (
            not self._ready
            or self.thread != PyThread_get_thread_ident()
            or (bounded.count() and self.late())
        ):
            return self._slow()
        global spare
        following, spare = spare, None
        if following is None or Py_REFCNT(<PyObject *>following) > 1:  # the last one is still referenced elsewhere
            following = Next.__new__(Next)
        (<Next>following).taker = self
        return following

    def _call_each(self, function):
        cdef Calling calling = Calling.__new__(Calling)
        calling.taker = self
        calling.function = function
        return calling

    cdef inline int count_message(self) except -1:
        if self._message is not None:
            message, self._message = self._message, None
            self._bounded.processed += 1
            return self._bounded.settle(message)
        return 0

    cdef inline bint late(self) noexcept:
        # Reading the counter takes less than half of the time of reading the clock. An advance of less than TICKS is
        # shorter than a time slice on any CPU, so the clock is not read.
        cdef unsigned long long ticks = wsfleet_ticks()
        if ticks - self.ticks < TICKS:
            return False
        self.ticks = ticks
        if self._until < 0:
            self._until = now() + SLICE_S
        return now() > self._until

    cdef inline void renew(self) noexcept:
        # The clock is first read in late(): most slices end before that.
        self._until = -1.0
        self.ticks = wsfleet_ticks()

    cdef inline object next(self):
        if self._keeps:
            self._message = self._bounded.next_in_hand()
            return self._message
        return self._bounded.next_out()

    def _take(self):
        return self.next()

    def _restart(self):
        self._until = now() + SLICE_S
        self.ticks = 0
        self.thread = PyThread_get_thread_ident()
        self.create_future = get_running_loop().create_future

    def _give_back(self):
        message, self._message = self._message, None
        return message

    def _interrupted(self):
        pass

    def _slow(self):
        raise NotImplementedError


cdef Next spare = None  # the last one awaited, reused: creating an object takes longer


@cython.final
cdef class Next:
    """The awaitable of `__anext__`. It takes a message only when it is awaited, so that none can get lost."""

    cdef MessageIterator taker
    cdef object inner  # the iterator it is waiting for: a future, or the coroutine of `_slow`
    cdef object waiter

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        if step(<PyObject *>self, <PyObject *>value, &result) == PYGEN_NEXT:
            return take_over(result)
        raise StopIteration(take_over(result))

    def throw(self, *error):
        if self.inner is None:
            raise error[1] if len(error) > 1 and error[1] is not None else error[0]
        try:
            return self.inner.throw(*error)
        except BaseException:
            self.interrupted()
            raise

    def close(self):
        if self.inner is not None:
            self.inner.close()
            self.interrupted()

    cdef int interrupted(self) except -1:
        taker, waiter = self.taker, self.waiter
        self.taker = self.inner = self.waiter = None
        if waiter is not None:
            waiters = (<MessageIterator>taker)._bounded.waiters
            if waiter in waiters:
                waiters.remove(waiter)
            taker._interrupted()
        return 0

    cdef int wait(self) except -1:
        cdef BoundedQueue bounded = self.taker._bounded
        if bounded.closed or bounded.finishing or not self.taker._ready or self.taker.thread != PyThread_get_thread_ident():
            self.inner = self.taker._slow()
        else:
            self.waiter = self.taker.create_future()
            bounded.waiters.append(self.waiter)
            self.inner = iter(self.waiter)
        return 0


cdef PySendResult step(PyObject *following, PyObject *value, PyObject **result) except PYGEN_ERROR:
    global spare
    cdef Next self = <Next>following
    cdef MessageIterator taker = self.taker
    cdef PySendResult became
    if taker is None:
        raise RuntimeError("cannot reuse already awaited __anext__()")
    while True:
        if self.inner is not None:
            try:
                became = PyIter_Send(<PyObject *>self.inner, value, result)
            except BaseException:
                self.interrupted()
                raise
            if became == PYGEN_NEXT:
                return PYGEN_NEXT
            self.inner = None
            if self.waiter is None:
                self.taker = None
                return PYGEN_RETURN
            self.waiter = None
            Py_CLEAR(result[0])
            taker.renew()
        if taker._bounded.count():
            message = taker.next()
            Py_INCREF(message)
            result[0] = <PyObject *>message
            self.taker = None
            spare = self
            return PYGEN_RETURN
        self.wait()
        value = <PyObject *>None


@cython.final
cdef class Calling:
    """The awaitable of `_call_each`. It makes one call after the other without a Python frame of its own."""

    cdef MessageIterator taker
    cdef object function
    cdef object call  # the coroutine of the call in progress, or None
    cdef object following  # if there is no call in progress: the awaitable of the next message

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        if call_on(<PyObject *>self, <PyObject *>value, &result) == PYGEN_NEXT:
            return take_over(result)
        raise StopIteration(take_over(result))

    def throw(self, *error):
        inner = self.following if self.call is None else self.call
        if inner is None:
            raise error[1] if len(error) > 1 and error[1] is not None else error[0]
        try:
            return inner.throw(*error)
        except StopIteration as stop:
            # The call caught the error and returned.
            if self.call is None:
                self.begin(stop.value)
            else:
                self.end()
        except StopAsyncIteration:
            if inner is self.call:
                self.call = None
                raise
            self.following = None
            raise StopIteration(None) from None
        except BaseException:
            self.call = self.following = None
            raise
        return self.send(None)

    def close(self):
        for inner in (self.call, self.following):
            if inner is not None:
                inner.close()
        self.call = self.following = None

    cdef inline int begin(self, message) except -1:
        self.following = None
        call = PyObject_CallOneArg(self.function, message)
        self.call = call if PyCoro_CheckExact(call) else awaited(call)
        return 0

    cdef inline int end(self) except -1:
        self.call = None
        return self.taker.count_message()


cdef PySendResult call_on(PyObject *calling, PyObject *value, PyObject **result) except PYGEN_ERROR:
    cdef Calling self = <Calling>calling
    cdef MessageIterator taker = self.taker
    cdef PySendResult became
    while True:
        if self.call is not None:
            try:
                became = PyIter_Send(<PyObject *>self.call, value, result)
            except BaseException:
                self.call = None
                raise
            if became == PYGEN_NEXT:
                return PYGEN_NEXT
            Py_CLEAR(result[0])
            self.end()
            value = <PyObject *>None
        if self.following is None:
            if not (taker._ready and taker._bounded.count()):
                self.following = taker.__anext__()
            elif taker.late():
                self.following = taker._slow()
            else:
                self.begin(taker.next())
                continue
        try:
            became = PyIter_Send(<PyObject *>self.following, value, result)
        except StopAsyncIteration:
            self.following = None
            Py_INCREF(None)
            result[0] = <PyObject *>None
            return PYGEN_RETURN
        except BaseException:
            self.following = None
            raise
        if became == PYGEN_NEXT:
            return PYGEN_NEXT
        message = take_over(result[0])
        result[0] = NULL
        self.begin(message)
        value = <PyObject *>None


async def awaited(call):
    return await call


# With am_send, a result is returned to the awaiting code without raising and catching StopIteration.
wsfleet_set_am_send(<PyTypeObject *>Next, <sendfunc>step)
wsfleet_set_am_send(<PyTypeObject *>Calling, <sendfunc>call_on)
