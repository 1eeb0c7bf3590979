"""Ten minutes of 2,000 connections and a server with random faults: `make soak`."""
