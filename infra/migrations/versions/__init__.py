"""The revisions of the ledger, in the order of their numbers. One that was released is never changed."""
