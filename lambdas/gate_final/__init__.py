"""The gate of `final/`."""
