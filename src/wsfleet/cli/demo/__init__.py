"""`wsfleet demo`: a live view of a thousand connections to a local feed server that injects faults.

`scenario` has the messages and the faults, `server` the server's process, `board` the screen, `command` the rest.
"""

from wsfleet.cli.demo.command import add_arguments, main

__all__ = ["add_arguments", "main"]
