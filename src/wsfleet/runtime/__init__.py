"""Runs a fleet as a program: in one process or several, with signals, logs, reload and systemd.

Input: a configuration file or `module:fleet`. Output: an exit code. Imports core, fleet, config, sinks and serve.
"""
