"""Ten minutes of 2,000 connections and a server that misbehaves at random: `make soak`."""
