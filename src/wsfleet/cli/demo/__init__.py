"""`wsfleet demo`: a thousand connections to a local feed server that misbehaves, watched live.

`plan` says what will go wrong, `server` is the server's process, `board` what is shown, `command` puts it together.
"""

from wsfleet.cli.demo.command import add_arguments, main

__all__ = ["add_arguments", "main"]
