"""
A batch may be held because its table shows an earlier state (`rolled_back`), or its query is none (`query_invalid`).

Frozen: it says what the ledger was at this revision.

Revision: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

_REASONS = """
    'foreign_object', 'object_missing', 'size_mismatch', 'checksum_mismatch', 'header_mismatch',
    'record_count_mismatch', 'metadata_mismatch', 'footer_unreadable', 'footer_mismatch',
    'table_missing', 'query_invalid', 'column_missing', 'type_changed', 'key_changed', 'schema_changed_during_read', 'null_cursor',
    'mask_key_missing', 'value_not_representable', 'source_answer_invalid', 'source_limit_exceeded',
    'cell_not_convertible', 'null_key', 'null_not_allowed', 'too_many_rejects', 'empty_replace',
    'proof_failed', 'target_incompatible', 'delete_burst', 'rolled_back', 'newer_snapshot_published', 'attempt_failed',
    'lease_expired', 'attempts_exhausted', 'counts_do_not_add_up', 'replayed', 'discarded'
"""


def upgrade() -> None:
    """Let every table that holds a reason hold the new ones."""
    for table in ("attempt", "batch", "batch_event", "data_file"):
        op.execute(
            f"ALTER TABLE esclusa.{table} DROP CONSTRAINT {table}_reason_is_known, "
            f"ADD CONSTRAINT {table}_reason_is_known CHECK (reason IN ({_REASONS}))"
        )
