"""The gate of `processing/`."""
