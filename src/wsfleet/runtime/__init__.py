"""Runs a fleet as a program: in one process or many, with signals, logs, reload and systemd.

In: a configuration file or `module:fleet`. Out: an exit code. Imports everything but cli and testing.
"""
