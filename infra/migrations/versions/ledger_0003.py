"""
Compactions, which write the files of many batches anew as one, and rollbacks of tables to an earlier state.

Frozen: it says what the ledger was at this revision.

Revision: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both tables, and the column that says which compaction wrote a file."""
    for statement in (_COMPACTION, _ROLLBACK, _DATA_FILE):
        op.execute(statement)


_COMPACTION = """
CREATE TABLE esclusa.compaction (
    id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    bucket text NOT NULL,
    day text NOT NULL,
    contract_version integer NOT NULL,
    state text NOT NULL,
    batches jsonb NOT NULL,
    begun_at timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    decided_at timestamptz,
    shown_at timestamptz,
    delete_after timestamptz,
    deletes_begun_at timestamptz,
    cleaned_at timestamptz,
    detail text NOT NULL,
    CONSTRAINT compaction_key PRIMARY KEY (id),
    CONSTRAINT compaction_state_is_known CHECK (state IN ('writing', 'committed', 'undone', 'abandoned'))
);
CREATE INDEX compaction_by_table ON esclusa.compaction (source, table_name, begun_at, id);
CREATE INDEX compaction_to_clean ON esclusa.compaction (delete_after) WHERE cleaned_at IS NULL;
COMMENT ON TABLE esclusa.compaction
    IS 'One file in place of those of some batches of one day of a table. Rows are never deleted.';
COMMENT ON COLUMN esclusa.compaction.id IS 'In the key of its file.';
COMMENT ON COLUMN esclusa.compaction.day IS 'Of the windows of its batches.';
COMMENT ON COLUMN esclusa.compaction.contract_version IS 'The newest of its batches; its file is written by it.';
COMMENT ON COLUMN esclusa.compaction.batches IS 'Its batches, and which rows of the file are theirs.';
COMMENT ON COLUMN esclusa.compaction.lease_until IS 'Until then its writer lives.';
COMMENT ON COLUMN esclusa.compaction.decided_at IS 'When it was committed, undone or abandoned.';
COMMENT ON COLUMN esclusa.compaction.shown_at IS 'When the catalog was brought to the state.';
COMMENT ON COLUMN esclusa.compaction.delete_after IS 'Then the files that nobody reads any more may go.';
COMMENT ON COLUMN esclusa.compaction.deletes_begun_at IS 'From then on there is no way back.';
COMMENT ON COLUMN esclusa.compaction.cleaned_at IS 'When the last of them was gone.';
COMMENT ON COLUMN esclusa.compaction.detail IS 'Who asked for it, and why.';
"""

_ROLLBACK = """
CREATE TABLE esclusa.rollback (
    id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    last_batch_id text COLLATE "C",
    withdrawn_batch_ids text[] NOT NULL,
    begun_at timestamptz NOT NULL,
    actor text NOT NULL,
    detail text NOT NULL,
    done_at timestamptz,
    CONSTRAINT rollback_key PRIMARY KEY (id)
);
CREATE INDEX rollback_by_table ON esclusa.rollback (source, table_name, begun_at, id);
COMMENT ON TABLE esclusa.rollback
    IS 'Each time a table was led back to an earlier state, or forward again.';
COMMENT ON COLUMN esclusa.rollback.last_batch_id IS 'The last batch that the table has; NULL: it has all again.';
COMMENT ON COLUMN esclusa.rollback.withdrawn_batch_ids IS 'The batches that are not in the table.';
COMMENT ON COLUMN esclusa.rollback.detail IS 'Why.';
COMMENT ON COLUMN esclusa.rollback.done_at IS 'When warehouse and catalog were brought there.';
"""

_DATA_FILE = """
ALTER TABLE esclusa.data_file ADD COLUMN compaction_id text COLLATE "C";
COMMENT ON COLUMN esclusa.data_file.compaction_id IS 'The compaction that wrote it; then no batch has.';
"""
