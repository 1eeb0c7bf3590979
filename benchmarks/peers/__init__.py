"""The contenders, one module each. benchmarks/contender.py describes the function `run`."""
