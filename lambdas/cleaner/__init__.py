"""Deletes what is no longer needed and sets aside what was refused, by exact key, when the ledger says so."""
