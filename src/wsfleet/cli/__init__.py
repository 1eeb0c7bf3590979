"""The command `wsfleet`: reads arguments and prints for people. Everything else works without it.

Input: a command line. Output: text on the terminal and an exit code. Imports every package.
"""
