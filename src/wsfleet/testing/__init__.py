"""Tools for tests of programs that use wsfleet: a server that fails on demand, and a transport without a network.

Input: a script of faults, payloads. Output: a server or sockets for a fleet under test. Imports core, transport and
fleet.
"""

from wsfleet.testing import faults
from wsfleet.testing.chaos import Chaos
from wsfleet.testing.fake import FakeSocket, FakeTransport
from wsfleet.testing.feed_server import FeedServer
from wsfleet.testing.numbers import Audit

__all__ = ["Audit", "Chaos", "FakeSocket", "FakeTransport", "FeedServer", "faults"]
