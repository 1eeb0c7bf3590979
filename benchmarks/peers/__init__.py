"""The contenders, one module each. What `run` has to do is told in benchmarks/contender.py."""
