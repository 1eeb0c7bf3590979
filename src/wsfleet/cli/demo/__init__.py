"""`wsfleet demo`: a thousand connections to a local feed server that misbehaves, watched live.

`scenario` is what the feed sends and does wrong, `server` the server's process, `board` the screen, `command` the
command itself.
"""

from wsfleet.cli.demo.command import add_arguments, main

__all__ = ["add_arguments", "main"]
