"""The gate of `input/`."""
