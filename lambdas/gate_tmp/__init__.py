"""The gate of `tmp/`."""
