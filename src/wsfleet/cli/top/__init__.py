"""`wsfleet top`: a terminal screen that shows a running fleet."""

from wsfleet.cli.top.command import add_arguments, main

__all__ = ["add_arguments", "main"]
