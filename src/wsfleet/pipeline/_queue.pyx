# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`wsfleet.pipeline.queue` in Cython. The classes and methods are documented there."""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_CLEAR, Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import asyncio
import sys
from asyncio import CancelledError, current_task, get_running_loop, isfuture
from asyncio.tasks import _enter_task, _leave_task
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
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1
    Py_ssize_t PyList_GET_SIZE(object)
    PyObject *PyList_GET_ITEM(object, Py_ssize_t)


cdef double SLICE_S = time_slice.SLICE_S

# A function in Python up to 3.11.
task_of = asyncio.tasks._current_tasks.get if sys.version_info < (3, 12) else current_task

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
    cdef public object idle_calls

    def __init__(self, waiting, most, most_bytes, *, plain):
        self.waiting = waiting
        self.fifo = waiting if isinstance(waiting, Fifo) else None
        self.plain = plain
        self.watched = self.closed = self.finishing = False
        self.set_aside = self.in_hand = self.pending_bytes = 0
        self.offered = self.processed = self.failed = self.dropped = 0
        self.waiters = []
        self.idle_calls = None
        self.idle_waiters = []
        self.most = min(most, sys.maxsize)
        self.most_bytes = min(most_bytes, sys.maxsize)

    @property
    def pending(self):
        return self.count() + self.set_aside + self.in_hand

    cdef inline Py_ssize_t count(self) except -1:
        return self.fifo.count if self.fifo is not None else len(self.waiting)

    def append_all(self, list messages not None, Py_ssize_t nbytes, bint wakes=True):
        return self.appended(messages, nbytes, wakes)

    cdef bint appended(self, list messages, Py_ssize_t nbytes, bint wakes) except -1:
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
        if wakes and PyList_GET_SIZE(self.waiters):
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
    cdef public list ready
    cdef public BoundedQueue calling

    def __init__(self):
        self.ready = []
        self.calling = None

    def deliver(self, tuple route not None, list messages not None, Py_ssize_t nbytes):
        cdef Py_ssize_t count = PyList_GET_SIZE(messages)
        cdef list refused = None
        cdef bint idle
        self.published += count
        if not route:
            self.unrouted += count
            return None
        self.routed += count
        self.deliveries += count * len(route)
        for bounded in route:
            idle = (<BoundedQueue?>bounded).idle_calls is not None
            if not (<BoundedQueue>bounded).appended(messages, nbytes, not idle):
                if refused is None:
                    refused = []
                refused.append(bounded)
            elif idle:
                self.ready.append(bounded)
        return refused

    def begin_calls(self, double until):
        cdef BoundedQueue bounded
        cdef bint nested = self.calling is not None
        cdef Py_ssize_t place
        ready, self.ready = self.ready, []
        for place in range(PyList_GET_SIZE(ready)):
            bounded = <BoundedQueue>ready[place]
            calls = bounded.idle_calls
            if calls is None or nested or until == 0.0 or (place and now() > until):
                bounded.wake_all()
                continue
            self.calling = bounded
            try:
                (<Calls?>calls).start_in_read(until)
            finally:
                self.calling = None


cdef class MessageIterator:
    cdef public BoundedQueue _bounded
    cdef public bint _ready
    cdef public double _until
    cdef unsigned long long ticks
    cdef unsigned long thread
    cdef object create_future

    def __init__(self, BoundedQueue mailbox not None):
        self._bounded = mailbox
        self._ready = True
        self._until = 0.0
        if type(self).__anext__ is MessageIterator.__anext__:
            wsfleet_inherit_am_anext(Py_TYPE(self), <PyTypeObject *>MessageIterator)

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef BoundedQueue bounded = self._bounded
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

    def _take(self):
        return self._bounded.next_out()

    def _restart(self):
        self._until = now() + SLICE_S
        self.ticks = 0
        self.thread = PyThread_get_thread_ident()
        self.create_future = get_running_loop().create_future

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
            message = taker._bounded.next_out()
            Py_INCREF(message)
            result[0] = <PyObject *>message
            self.taker = None
            spare = self
            return PYGEN_RETURN
        self.wait()
        value = <PyObject *>None


@cython.final
cdef class Calls:
    cdef BoundedQueue bounded
    cdef object function, context, loop, task
    cdef object message  # in hand
    cdef object call  # the iterator of the call in progress, or None
    cdef object waiter  # the future of an idle worker, or None
    cdef object awaited, error  # of a call that began within a read
    cdef bint begun, turning, slow
    cdef bint called  # in this time slice of the task
    cdef double until
    cdef unsigned long long ticks
    cdef object __weakref__

    def __init__(self, BoundedQueue mailbox not None, function, context=None):
        self.bounded = mailbox
        self.function = function
        self.context = context

    def __await__(self):
        self.loop, self.task = get_running_loop(), current_task()
        self.renew()
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        if proceed(<PyObject *>self, <PyObject *>value, &result) == PYGEN_NEXT:
            return take_over(result)
        raise StopIteration(take_over(result))

    def throw(self, *error):
        exception = error[1] if len(error) > 1 and error[1] is not None else error[0]
        self.turning = False
        if self.waiter is not None:
            self.leave_wait()
        if self.call is None:
            raise exception
        if self.begun and isinstance(exception, CancelledError) and isfuture(self.awaited) and self.awaited.cancel():
            # As if the task had waited for this future: the call gets the exception from there.
            self.begun = False
            awaited, self.awaited = self.awaited, None
            return awaited
        self.begun = False
        self.awaited = None
        try:
            return self.call.throw(*error)
        except StopIteration:
            self.end()  # the call caught the error and returned
        except BaseException:
            self.call = None
            raise
        return self.send(None)

    def close(self):
        if self.waiter is not None:
            self.leave_wait()
        call, self.call = self.call, None
        if call is not None:
            call.close()

    def begin(self, until):
        self.start_in_read(until)

    cdef int start_in_read(self, double until) except -1:
        cdef BoundedQueue bounded = self.bounded
        waiter = self.waiter
        if waiter is None or self.context is None or waiter.done():
            return 0
        bounded.idle_calls = None
        PyContext_Enter(self.context)
        try:
            self.call_in_read(until)
        finally:
            PyContext_Exit(self.context)
        if waiter.done():
            return 0
        if self.begun or self.error is not None or bounded.count():
            bounded.wake_all()
        elif not self.slow:
            bounded.idle_calls = self
        return 0

    def give_back(self):
        message, self.message = self.message, None
        error, self.error = self.error, None
        return message, error

    cdef int call_in_read(self, double until) except -1:
        cdef BoundedQueue bounded = self.bounded
        cdef PyObject *result = NULL
        loop, task = self.loop, self.task
        outer = task_of(loop)
        if outer is not None:  # a test feeds the messages from its task
            _leave_task(loop, outer)
        _enter_task(loop, task)
        self.until = until
        self.ticks = wsfleet_ticks()
        self.slow = False
        try:
            while bounded.count():
                self.start()
                if PyIter_Send(<PyObject *>self.call, <PyObject *>None, &result) == PYGEN_NEXT:
                    self.awaited = take_over(result)
                    self.begun = True
                    break
                Py_CLEAR(result)
                self.end()
                if self.late():
                    self.slow = True
                    break
        except BaseException as error:
            self.call = None
            self.error = error
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        return 0

    cdef inline bint late(self) noexcept:
        # Reading the counter takes less than half of the time of reading the clock. An advance of less than TICKS is
        # shorter than a time slice on any CPU, so the clock is not read.
        cdef unsigned long long ticks = wsfleet_ticks()
        if ticks - self.ticks < TICKS:
            return False
        self.ticks = ticks
        return now() > self.until

    cdef inline void renew(self) noexcept:
        self.until = now() + SLICE_S
        self.ticks = wsfleet_ticks()
        self.called = False

    cdef inline int start(self) except -1:
        self.message = self.bounded.next_in_hand()
        call = PyObject_CallOneArg(self.function, self.message)
        self.call = call if PyCoro_CheckExact(call) else awaited(call)
        return 0

    cdef inline int end(self) except -1:
        message, self.message = self.message, None
        self.call = None
        self.called = True
        if message is None:
            return 0
        self.bounded.processed += 1
        return self.bounded.settle(message)

    cdef int wait(self) except -1:
        self.waiter = self.loop.create_future()
        self.waiter._asyncio_future_blocking = True
        self.bounded.waiters.append(self.waiter)
        # A function that blocks must not run twice in an iteration of the loop, in the read and in the task.
        if self.context is not None and not (self.called and self.late()):
            self.bounded.idle_calls = self
        return 0

    cdef int leave_wait(self) except -1:
        waiter, self.waiter = self.waiter, None
        if self.bounded.idle_calls is self:
            self.bounded.idle_calls = None
        if waiter in self.bounded.waiters:
            self.bounded.waiters.remove(waiter)
        self.renew()
        return 0


cdef PySendResult proceed(PyObject *calls, PyObject *value, PyObject **result) except PYGEN_ERROR:
    cdef Calls self = <Calls>calls
    cdef BoundedQueue bounded = self.bounded
    cdef PySendResult became
    if self.waiter is not None:
        self.leave_wait()
        if self.error is not None:
            raise self.error
        if self.begun:
            self.begun = False
            if self.awaited is not None:
                Py_INCREF(self.awaited)
                result[0] = <PyObject *>self.awaited
                self.awaited = None
                return PYGEN_NEXT
    elif self.turning:
        self.turning = False
        self.renew()
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
        if not bounded.count():
            if bounded.closed or bounded.finishing:
                Py_INCREF(None)
                result[0] = <PyObject *>None
                return PYGEN_RETURN
            self.wait()
            Py_INCREF(self.waiter)
            result[0] = <PyObject *>self.waiter
            return PYGEN_NEXT
        if self.late():
            self.turning = True
            Py_INCREF(None)
            result[0] = <PyObject *>None
            return PYGEN_NEXT
        self.start()


async def awaited(call):
    return await call


# With am_send, a result is returned to the awaiting code without raising and catching StopIteration.
wsfleet_set_am_send(<PyTypeObject *>Next, <sendfunc>step)
wsfleet_set_am_send(<PyTypeObject *>Calls, <sendfunc>proceed)
