"""Measured comparisons: `make bench` runs all of them, and prints a table and a JSON document of each."""
