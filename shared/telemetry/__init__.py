"""Logs: one record is one JSON line, and no secret is in it."""
