"""The command `wsfleet`: reads arguments, prints for people. Everything else may be used without it.

In: a command line. Out: text on the terminal and an exit code. May import every package.
"""
