"""`wsfleet bench`: what a message costs on this machine, by hand, with wsfleet, and at best.

`peer` and `server` send, `programs` are what is compared, `turns` lets them run in turn in a process of its own,
`command` asks for it and shows the result.
"""

from wsfleet.cli.bench.command import add_arguments, main

__all__ = ["add_arguments", "main"]
