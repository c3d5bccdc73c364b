"""Proves, window by window, that source, CSV, Parquet and warehouse hold the same rows."""
