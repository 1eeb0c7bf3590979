"""`wsfleet bench`: what a message costs on this machine, by hand, with wsfleet, and at best.

`programs` are compared, `peer` is the server's end of a connection, `children` are the processes, `command` shows the
result.
"""

from wsfleet.cli.bench.command import add_arguments, main

__all__ = ["add_arguments", "main"]
