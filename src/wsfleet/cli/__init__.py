"""The command `wsfleet`: parses arguments and prints text. No other package imports it.

Input: a command line. Output: text on the terminal and an exit code. Imports every other package.
"""
