"""
A table's files may be written anew in wider types: a compaction says in which, waits until all are, and is replaced.

The column may be NULL, so that processes of the version before read and write beside those of this one.

Revision: 0006
"""

import sqlalchemy
from alembic import op

revision = "0006"
down_revision = "0005"

_STATES = "'writing', 'prepared', 'committed', 'undone', 'replaced', 'abandoned'"


def upgrade() -> None:
    """Add the column, which has no default, so that no row is rewritten; and let a compaction be in the new states."""
    op.add_column(
        "compaction",
        sqlalchemy.Column(
            "types_version",
            sqlalchemy.Integer,
            nullable=True,
            comment="Of a widening: the contract whose types its file has.",
        ),
        schema="esclusa",
    )
    op.execute(
        "ALTER TABLE esclusa.compaction DROP CONSTRAINT compaction_state_is_known, "
        f"ADD CONSTRAINT compaction_state_is_known CHECK (state IN ({_STATES}))"
    )
    op.execute(
        "COMMENT ON COLUMN esclusa.compaction.contract_version "
        "IS 'The newest of its batches; its file has its columns.'"
    )
    op.execute("COMMENT ON COLUMN esclusa.compaction.decided_at IS 'When it came to its state.'")
