"""Turns the raw CSV of one batch into typed, deduplicated Parquet in `final/`."""
