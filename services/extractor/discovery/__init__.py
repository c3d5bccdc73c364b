"""`discover`: the file of a source that nobody has declared yet, written from the live source; see `document`."""
