"""For testing programs that are built on wsfleet: a server to connect to, and a transport without a network."""

from wsfleet.testing.fake import FakeSocket, FakeTransport
from wsfleet.testing.feed_server import FeedServer

__all__ = ["FakeSocket", "FakeTransport", "FeedServer"]
