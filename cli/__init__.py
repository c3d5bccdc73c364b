"""The command `esclusa`."""
