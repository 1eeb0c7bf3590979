"""Routes messages from topics to subscriptions.

Publishing is synchronous: it matches the topic and appends the message to the mailbox of each subscription.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from wsfleet.core.message import Message, Slow
from wsfleet.core.options import Buffer
from wsfleet.core.stats import HubStats, SubscriptionStats, add_rows
from wsfleet.core.topics import PatternIndex
from wsfleet.pipeline.backpressure import Source, UnreadSources
from wsfleet.pipeline.mailbox import WORK, Mailbox
from wsfleet.pipeline.queue import Dispatcher

__all__ = ["Hub", "Routes"]

Route = tuple[Mailbox, ...]
Feeding = Source[Mailbox]

MAX_ROUTES = 10_000
"""Maximum number of cached routes for each endpoint. The endpoint's cache is cleared when it is reached."""

MAX_ROUTES_IN_ALL = 100_000
"""Maximum number of cached routes over all endpoints. All caches are cleared when it is reached."""

MAX_TOPIC = 256
"""Routes of topics with more characters are not cached: a peer may choose the topic, as long as a whole message."""


class Routes(dict[str, Route]):
    """The cached routes of one endpoint, by topic."""

    __slots__ = ("chunk", "shared")

    def __init__(self) -> None:
        # The most messages to publish in one batch, given the cost of the most expensive route: the event loop does
        # not run during a batch.
        self.chunk = 1
        # Equal routes are the same tuple, so that consecutive messages with one route are found by identity.
        self.shared: dict[Route, Route] = {}

    def remember(self, topic: str, route: Route) -> Route:
        """Cache `route` for `topic`, and return the shared tuple that is equal to it."""
        chunk = WORK // max(1, min(WORK, sum([mailbox.cost for mailbox in route])))
        self.chunk = min(self.chunk, chunk) if self else chunk
        route = self[topic] = self.shared.setdefault(route, route)
        return route

    def clear(self) -> None:
        super().clear()
        self.chunk = 1
        self.shared.clear()


def _ignore(error: BaseException) -> None:
    """Do nothing: without a fleet there is nothing to stop."""


class Hub(Dispatcher):
    """Owns the mailboxes, and routes messages to them. The work for each message and the counts are in `Dispatcher`."""

    def __init__(self, request_exit: Callable[[BaseException], None] = _ignore) -> None:
        super().__init__()
        self.closed = False
        self.injected = 0
        self.unread = UnreadSources()
        self.request_exit = request_exit
        """Stops the fleet when user code that is called for a message raises SystemExit or KeyboardInterrupt."""
        # An insertion-ordered set of all mailboxes. Only those in `_patterns` are matched against a new topic.
        self._mailboxes: dict[Mailbox, None] = {}
        self._patterns: PatternIndex[Mailbox] = PatternIndex()
        self._own: dict[str, list[Mailbox]] = {}
        self._owners: dict[Mailbox, tuple[str, ...]] = {}
        self._routes: dict[str, Routes] = {}
        self._remembered = 0
        self._delivering = False
        self._leaving: list[Mailbox] = []
        self._retired: SubscriptionStats | None = None

    # Mailboxes

    def add(self, name: str, pattern: str, buffer: Buffer, endpoints: tuple[str, ...] = ()) -> Mailbox:
        """Add and return a mailbox for `pattern`; with `endpoints`, for all messages of these endpoints only."""
        self._retire()
        mailbox = Mailbox(name, pattern, buffer, self._full)
        if mailbox.may_replace:
            mailbox.waiting.request_exit = self.request_exit
        self._mailboxes[mailbox] = None
        if not endpoints:
            self._patterns.add(mailbox, pattern)
        for endpoint in endpoints:
            self._own.setdefault(endpoint, []).append(mailbox)
        self._owners[mailbox] = endpoints
        self._forget_routes(endpoints)
        return mailbox

    def remove(self, mailbox: Mailbox, *, drop: bool = True) -> bool:
        """Remove a mailbox; return whether it was present.

        Drop its waiting messages, or with `drop=False` let its consumer process them. Its counts are added to the row
        of the removed mailboxes.
        """
        if drop:
            mailbox.close()
        else:
            mailbox.finish()
        if mailbox not in self._mailboxes:
            return False
        del self._mailboxes[mailbox]
        self._patterns.discard(mailbox)
        endpoints = self._owners.pop(mailbox)
        for endpoint in endpoints:
            self._own[endpoint].remove(mailbox)
            if not self._own[endpoint]:
                del self._own[endpoint]
        self._forget_routes(endpoints)
        self._leaving.append(mailbox)
        self._retire()
        return True

    def owners(self, mailbox: Mailbox) -> tuple[str, ...]:
        """Return the endpoints whose messages `mailbox` takes; none if it has a pattern or was removed."""
        return self._owners.get(mailbox, ())

    def mailboxes(self) -> tuple[Mailbox, ...]:
        """Return the mailboxes that messages are routed to."""
        return tuple(self._mailboxes)

    def close(self) -> None:
        """Drop all waiting messages, in removed mailboxes too, at the end of the fleet."""
        self.closed = True
        for mailbox in (*self._mailboxes, *self._leaving):
            mailbox.close()

    def _forget_routes(self, endpoints: tuple[str, ...]) -> None:
        """Clear the cached routes of `endpoints`, or of all endpoints if none are given."""
        if endpoints:
            for endpoint in endpoints:
                self._clear(self._routes.get(endpoint))
            return
        for routes in self._routes.values():
            routes.clear()
        self._remembered = 0

    def _clear(self, routes: Routes | None) -> None:
        if routes is not None:
            self._remembered -= len(routes)
            routes.clear()

    def forget_endpoint(self, endpoint: str) -> None:
        """Forget a removed endpoint. Its name can be used again."""
        self._clear(self._routes.pop(endpoint, None))

    def disown(self, endpoint: str) -> None:
        """Detach the mailboxes of a removed endpoint from its name, before another endpoint takes the name.

        The mailbox of a pool still receives the messages of the other members.
        """
        for mailbox in self._own.pop(endpoint, ()):
            self._owners[mailbox] = tuple([name for name in self._owners[mailbox] if name != endpoint])

    # Messages

    def routes_of(self, endpoint: str) -> Routes:
        """Return the cached routes of one endpoint. The dict stays the same object."""
        return self._routes.setdefault(endpoint, Routes())

    def _find(self, topic: str, endpoint: str, routes: Routes) -> Route:
        found = (*self._own.get(endpoint, ()), *self._patterns.find(topic))
        if len(topic) > MAX_TOPIC:
            return routes.shared.get(found, found)
        if self._remembered >= MAX_ROUTES_IN_ALL:
            self._forget_routes(())
        if len(routes) >= MAX_ROUTES:
            self._clear(routes)
        self._remembered += 1
        return routes.remember(topic, found)

    def dispatch(
        self,
        messages: list[Message[Any]],
        nbytes: int,
        endpoint: str,
        routes: Routes,
        source: Feeding,
        until: float = 0.0,
    ) -> None:
        """Publish messages of one topic from one endpoint. `nbytes` is the sum of their sizes.

        Within a read, idle processors may begin their calls until the time `until`.
        """
        topic = messages[0].topic
        route = routes.get(topic)
        if route is None:
            route = self._find(topic, endpoint, routes)
        self._deliver(route, messages, nbytes, source)
        if self.ready:
            self.begin_calls(until)

    def dispatch_mixed(
        self, messages: list[Message[Any]], endpoint: str, routes: Routes, source: Feeding, until: float = 0.0
    ) -> None:
        """Publish messages of several topics, in order. Consecutive messages with the same route go as one batch."""
        run: list[Message[Any]] = []
        nbytes = 0
        run_route: Route = ()
        for message in messages:
            route = routes.get(message.topic)
            if route is None:
                route = self._find(message.topic, endpoint, routes)
            if run and route is not run_route:
                self._deliver(run_route, run, nbytes, source)
                run, nbytes = [], 0
                # The delivery may have ended a subscription, which clears the cached routes.
                route = routes.get(message.topic)
                if route is None:
                    route = self._find(message.topic, endpoint, routes)
            run_route = route
            run.append(message)
            nbytes += message.size
        if run:
            self._deliver(run_route, run, nbytes, source)
        if self.ready:
            self.begin_calls(until)

    def takes(self, topic: str, endpoint: str, routes: Routes) -> bool:
        """Return whether any subscription takes messages of `topic` from `endpoint`."""
        route = routes.get(topic)
        return bool(self._find(topic, endpoint, routes) if route is None else route)

    def hand_over(self, messages: list[Message[Any]], mailbox: Mailbox, source: Feeding) -> None:
        """Publish messages to one mailbox only."""
        self._deliver((mailbox,), messages, sum([message.size for message in messages]), source)
        if self.ready:
            self.begin_calls(0.0)

    def count_unrouted(self, count: int) -> None:
        """Count messages that were kept for a subscription but never delivered."""
        self.published += count
        self.unrouted += count

    def _deliver(self, route: Route, messages: list[Message[Any]], nbytes: int, source: Feeding) -> None:
        refused = self.deliver(route, messages, nbytes)
        if refused is not None:
            self.put_refused(refused, messages, nbytes, source)

    def put_refused(self, mailboxes: list[Mailbox], messages: list[Message[Any]], nbytes: int, source: Feeding) -> None:
        """Put messages into mailboxes that `append_all` refused: their policy decides, and may call user code."""
        outer, self._delivering = self._delivering, True
        try:
            for mailbox in mailboxes:
                mailbox.put(messages, nbytes, source)
        finally:
            self._delivering = outer

    def replay(self, mailbox: Mailbox, messages: list[Message[Any]]) -> None:
        """Put kept messages into a new mailbox. They count as deliveries, but not as published again."""
        self.deliveries += len(messages)
        mailbox.replay(messages)

    def wants(self, topic: str) -> bool:
        """Return whether any subscription matches `topic`. Without one, no `$` message is created."""
        routes = self.routes_of("")
        route = routes.get(topic)
        if route is None:
            route = self._find(topic, "", routes)
        return bool(route)

    def inject(self, topic: str, data: Any) -> int:
        """Publish data that did not come from a connection; return how many subscriptions took it."""
        routes = self.routes_of("")
        route = routes.get(topic)
        if route is None:
            route = self._find(topic, "", routes)
        self.injected += 1
        self.published += 1
        if not route:
            self.unrouted += 1
            return 0
        self.routed += 1
        self.deliveries += len(route)
        size = (
            len(data) if isinstance(data, bytes) else len(data.encode(errors="replace")) if isinstance(data, str) else 0
        )
        message = Message(data, topic, received_at=time.time(), size=size)
        outer, self._delivering = self._delivering, True
        try:
            return sum([mailbox.inject(message) for mailbox in route])
        finally:
            self._delivering = outer

    def _full(self, mailbox: Mailbox, message: Message[Any]) -> None:
        # A $ message must not cause another $ message.
        topic = f"$slow.{mailbox.name}"
        if not message.topic.startswith("$") and self.wants(topic):
            self.inject(
                topic, Slow(mailbox.name, mailbox.pending, mailbox.pending_bytes, mailbox.buffer.overflow.value)
            )

    # Counts

    def stats(self) -> HubStats:
        return HubStats(self.published, self.injected, self.routed, self.unrouted, self.deliveries)

    def retired_stats(self) -> SubscriptionStats | None:
        """Return the row of the removed mailboxes, or None if there are none."""
        self._retire()
        retired = self._retired
        for mailbox in self._leaving:
            retired = add_rows(retired, mailbox.stats())
        return retired

    def forget_unused(self) -> None:
        """Discard the row of the removed mailboxes if no message was ever offered to them."""
        self._retire()
        if self._retired is not None and not self._retired.offered:
            self._retired = None

    def _retire(self) -> None:
        """Add up the counts of removed mailboxes that have nothing pending: these counts are final.

        Not during a delivery: a user's key function may close the subscription that the message is delivered to. The
        message is still offered there, and dropped.
        """
        if self._delivering:
            return
        for mailbox in [m for m in self._leaving if not m.pending]:
            self._leaving.remove(mailbox)
            self._retired = add_rows(self._retired, mailbox.stats())
