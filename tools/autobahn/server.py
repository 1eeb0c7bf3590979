"""Autobahn|Testsuite's fuzzing server on a free port of loopback, for Python 2.7: `server.py FOLDER CASE...`.

Its own command listens on all interfaces, and on a port that must be known before. Writes the port as one line;
the reports are written to FOLDER. A CASE may be a pattern: `*`, or `7.*`.
"""

import sys

from autobahntestsuite.fuzzing import FuzzingServerFactory
from twisted.internet import reactor

HOST = "127.0.0.1"


def url(port):
    return "ws://" + HOST + ":" + str(port)


def main():
    factory = FuzzingServerFactory({"url": url(1), "outdir": sys.argv[1], "cases": sys.argv[2:]})
    port = reactor.listenTCP(0, factory, interface=HOST).getHost().port
    # A request must contain the right port.
    factory.setSessionParameters(url=url(port), server=factory.server)
    sys.stdout.write("listening on " + str(port) + "\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main()
