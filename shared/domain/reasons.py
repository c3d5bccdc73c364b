"""Why something was refused, failed or set aside: one closed list, so that a reason can be counted and searched."""

from enum import StrEnum


class Reason(StrEnum):
    """A slug that stands in the ledger, in log lines and in metrics. `docs/delivery.md` says what cures each."""

    # A gate refused an object.
    #: An object lies in an area, but no attempt known to the ledger wrote it.
    FOREIGN_OBJECT = "foreign_object"
    #: The ledger names an object that the bucket does not hold.
    OBJECT_MISSING = "object_missing"
    #: The object's size differs from the one its writer recorded.
    SIZE_MISMATCH = "size_mismatch"
    #: The object's SHA-256 differs from the one its writer recorded.
    CHECKSUM_MISMATCH = "checksum_mismatch"
    #: The first line of a CSV file is not the header of the batch's contract.
    HEADER_MISMATCH = "header_mismatch"
    #: The record count beside or inside the object differs from the ledger's.
    RECORD_COUNT_MISMATCH = "record_count_mismatch"
    #: The attempt, source or area beside the object differs from the ledger's.
    METADATA_MISMATCH = "metadata_mismatch"
    #: A file in `final/` has no readable Parquet footer.
    FOOTER_UNREADABLE = "footer_unreadable"
    #: The footer's columns or types differ from the contract.
    FOOTER_MISMATCH = "footer_mismatch"

    # The extractor refused a table.
    #: The table is not there, or may not be read.
    TABLE_MISSING = "table_missing"
    #: The source does not take the query that stands in the place of a table, or two of its columns have one name.
    QUERY_INVALID = "query_invalid"
    #: A column of the contract is not in the source.
    COLUMN_MISSING = "column_missing"
    #: A column of the source has another type than the contract.
    TYPE_CHANGED = "type_changed"
    #: The source no longer guarantees that the contract's key tells rows apart.
    KEY_CHANGED = "key_changed"
    #: The schema of the source changed while it was read.
    SCHEMA_CHANGED_DURING_READ = "schema_changed_during_read"
    #: Rows without a cursor value belong to no window and would be lost.
    NULL_CURSOR = "null_cursor"
    #: The mask key cannot be had; nothing leaves unmasked.
    MASK_KEY_MISSING = "mask_key_missing"
    #: A value cannot be carried in the CSV dialect (invalid UTF-8, NUL).
    VALUE_NOT_REPRESENTABLE = "value_not_representable"
    #: The source answered something that cannot be true: an HTML page, a cut body, a total that does not match.
    SOURCE_ANSWER_INVALID = "source_answer_invalid"
    #: The source sent more pages, rows or bytes than its limits, or its pace within the deadline, allow.
    SOURCE_LIMIT_EXCEEDED = "source_limit_exceeded"

    # The processor refused rows or a batch.
    #: A cell does not fit its column's type.
    CELL_NOT_CONVERTIBLE = "cell_not_convertible"
    #: A row has no value in a key column.
    NULL_KEY = "null_key"
    #: A row has no value in a column that may not be NULL.
    NULL_NOT_ALLOWED = "null_not_allowed"
    #: More rows were rejected than the table's quarantine limits allow.
    TOO_MANY_REJECTS = "too_many_rejects"

    # The publisher refused a batch.
    #: A replace would empty a table, and `allow_empty` is not set.
    EMPTY_REPLACE = "empty_replace"
    #: The warehouse holds other rows than were loaded.
    PROOF_FAILED = "proof_failed"
    #: The target has a column of a type that the contract's type does not fit.
    TARGET_INCOMPATIBLE = "target_incompatible"
    #: A key sweep would delete more rows at once than the table's limits allow.
    DELETE_BURST = "delete_burst"
    #: The table is held at an earlier state.
    ROLLED_BACK = "rolled_back"
    #: A newer snapshot of the table is published already.
    NEWER_SNAPSHOT_PUBLISHED = "newer_snapshot_published"

    # Attempts.
    #: The attempt raised an error; another one follows.
    ATTEMPT_FAILED = "attempt_failed"
    #: The attempt's lease ran out: its worker died, hung or was told to stop.
    LEASE_EXPIRED = "lease_expired"
    #: Every allowed attempt of the stage failed.
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    #: Rows read, written and dropped do not add up.
    COUNTS_DO_NOT_ADD_UP = "counts_do_not_add_up"

    # Operators.
    #: An operator asked for the batch to be done again.
    REPLAYED = "replayed"
    #: An operator gave the batch up: its rows will not come.
    DISCARDED = "discarded"
