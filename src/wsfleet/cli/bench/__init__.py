"""`wsfleet bench`: measures the CPU cost of a message with bare websockets, with wsfleet, and as an upper bound.

`programs` has the compared programs, `peer` the server's side of a connection, `children` the child processes, and
`command` the command.
"""

from wsfleet.cli.bench.command import add_arguments, main

__all__ = ["add_arguments", "main"]
