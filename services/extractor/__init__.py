"""Reads one window of one table and writes it, masked, as plain-text CSV to `tmp/`."""
