"""
The ledger: every table, what it refuses by itself, and the edges that a batch may go along.

Frozen: it says what the ledger was at this revision. What the tables are now, `shared.ledger.tables` says.
There is no downgrade: the ledger is the truth, and the way back would delete it.

Revision: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

_STATES = """
    'planned', 'extracting', 'extracted', 'admitted', 'staged', 'ready', 'processing', 'processed',
    'committed', 'publishing', 'published', 'superseded', 'discarded', 'quarantined', 'failed'
"""

_REASONS = """
    'foreign_object', 'object_missing', 'size_mismatch', 'checksum_mismatch', 'header_mismatch',
    'record_count_mismatch', 'metadata_mismatch', 'footer_unreadable', 'footer_mismatch',
    'table_missing', 'column_missing', 'type_changed', 'key_changed', 'schema_changed_during_read', 'null_cursor',
    'mask_key_missing', 'value_not_representable', 'source_answer_invalid', 'source_limit_exceeded',
    'cell_not_convertible', 'null_key', 'null_not_allowed', 'too_many_rejects', 'empty_replace',
    'proof_failed', 'target_incompatible', 'delete_burst', 'newer_snapshot_published', 'attempt_failed',
    'lease_expired', 'attempts_exhausted', 'counts_do_not_add_up', 'replayed', 'discarded'
"""

_EDGES = (
    ("planned", "extracting"),
    ("planned", "failed"),
    ("extracting", "planned"),
    ("extracting", "extracted"),
    ("extracting", "quarantined"),
    ("extracting", "failed"),
    ("extracted", "admitted"),
    ("extracted", "quarantined"),
    ("admitted", "staged"),
    ("admitted", "quarantined"),
    ("staged", "ready"),
    ("staged", "quarantined"),
    ("ready", "processing"),
    ("ready", "failed"),
    ("processing", "ready"),
    ("processing", "processed"),
    ("processing", "quarantined"),
    ("processing", "failed"),
    ("processed", "committed"),
    ("processed", "quarantined"),
    ("committed", "publishing"),
    ("committed", "failed"),
    ("publishing", "committed"),
    ("publishing", "published"),
    ("publishing", "superseded"),
    ("publishing", "quarantined"),
    ("publishing", "failed"),
    ("quarantined", "planned"),
    ("quarantined", "committed"),
    ("quarantined", "discarded"),
    ("failed", "planned"),
    ("failed", "committed"),
    ("failed", "discarded"),
)


def upgrade() -> None:
    """Create everything. The schema itself is there: it holds the table of revisions."""
    for statements in (*_TABLES, _REFUSALS):
        op.execute(statements)
    for from_state, to_state in _EDGES:
        op.execute(f"INSERT INTO esclusa.allowed_edge VALUES ('{from_state}', '{to_state}')")


_TABLES = (
    """
CREATE TABLE esclusa.contract (
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    sha256 text NOT NULL,
    document json NOT NULL,
    registered_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT contract_key PRIMARY KEY (source, table_name, version),
    CONSTRAINT contract_version_is_from_1 CHECK (version >= 1)
);
COMMENT ON TABLE esclusa.contract
    IS 'What was agreed on a table, frozen by version. Rows are added, never changed.';
COMMENT ON COLUMN esclusa.contract.version IS 'Counts up from 1 with every change of the contract.';
COMMENT ON COLUMN esclusa.contract.sha256 IS 'Of the document as it is stored.';
COMMENT ON COLUMN esclusa.contract.document
    IS 'Canonical JSON: columns, types, masks, key, cursor, schedule. Secrets are references.';
""",
    """
CREATE TABLE esclusa.watermark (
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    planned_until timestamptz NOT NULL,
    CONSTRAINT watermark_key PRIMARY KEY (source, table_name)
);
COMMENT ON TABLE esclusa.watermark
    IS 'Up to where each table is planned. Says nothing of what is published.';
COMMENT ON COLUMN esclusa.watermark.planned_until IS 'Windows are planned up to here, exclusive.';
""",
    """
CREATE TABLE esclusa.cursor_count (
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    column_name text NOT NULL,
    planned_below bigint,
    seen_at timestamptz NOT NULL,
    seen_below bigint,
    CONSTRAINT cursor_count_key PRIMARY KEY (source, table_name)
);
COMMENT ON TABLE esclusa.cursor_count IS 'How far cursors that count were planned and seen.';
COMMENT ON COLUMN esclusa.cursor_count.column_name IS 'The cursor whose numbers they are.';
COMMENT ON COLUMN esclusa.cursor_count.planned_below
    IS 'Numbers below it are planned; NULL before the first window.';
COMMENT ON COLUMN esclusa.cursor_count.seen_at IS 'On the source''s clock.';
COMMENT ON COLUMN esclusa.cursor_count.seen_below
    IS 'Every number was below it then; NULL of an empty table.';
""",
    f"""
CREATE TABLE esclusa.allowed_edge (
    from_state text NOT NULL,
    to_state text NOT NULL,
    CONSTRAINT allowed_edge_key PRIMARY KEY (from_state, to_state),
    CONSTRAINT allowed_edge_from_state_is_known CHECK (from_state IN ({_STATES})),
    CONSTRAINT allowed_edge_to_state_is_known CHECK (to_state IN ({_STATES}))
);
COMMENT ON TABLE esclusa.allowed_edge IS 'Every transition a batch may make. Any other is refused.';
""",
    f"""
CREATE TABLE esclusa.batch (
    id text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    slot text NOT NULL,
    window_start timestamptz,
    window_end timestamptz NOT NULL,
    extent_column text,
    extent_low text,
    extent_high text,
    is_bulk boolean NOT NULL,
    contract_version integer NOT NULL,
    configuration_sha256 text NOT NULL,
    bucket text NOT NULL,
    state text NOT NULL,
    planned_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    extract_attempt integer NOT NULL,
    process_attempt integer NOT NULL,
    publish_attempt integer NOT NULL,
    extract_attempts_before_replay integer NOT NULL,
    process_attempts_before_replay integer NOT NULL,
    publish_attempts_before_replay integer NOT NULL,
    committed_attempt integer,
    counts jsonb NOT NULL,
    reason text,
    detail text NOT NULL,
    woken_at timestamptz,
    wake_count integer NOT NULL,
    not_before timestamptz,
    is_approved boolean NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT batch_key PRIMARY KEY (id),
    CONSTRAINT batch_slot_is_planned_once UNIQUE (source, table_name, slot),
    CONSTRAINT batch_contract_exists FOREIGN KEY (source, table_name, contract_version)
        REFERENCES esclusa.contract (source, table_name, version),
    CONSTRAINT batch_state_is_known CHECK (state IN ({_STATES})),
    CONSTRAINT batch_reason_is_known CHECK (reason IN ({_REASONS})),
    CONSTRAINT batch_window_starts_before_it_ends CHECK (window_start < window_end)
);
CREATE INDEX batch_by_planned_at ON esclusa.batch (planned_at, id);
CREATE INDEX batch_by_state ON esclusa.batch (state, planned_at, id);
CREATE INDEX batch_by_table ON esclusa.batch (source, table_name, planned_at, id);
CREATE INDEX batch_by_woken_at ON esclusa.batch (state, woken_at, id)
    WHERE woken_at IS NOT NULL;
CREATE INDEX batch_deferred ON esclusa.batch (source, is_bulk, planned_at, id)
    WHERE state = 'planned' AND woken_at IS NULL;
CREATE INDEX batch_discarded ON esclusa.batch (id)
    WHERE state = 'discarded';
CREATE INDEX batch_with_uncommitted_files ON esclusa.batch (id)
    WHERE process_attempt > 1 OR process_attempt = 1 AND committed_attempt IS NULL;
COMMENT ON TABLE esclusa.batch
    IS 'One window of one table: planned, retried, quarantined and published whole.';
COMMENT ON COLUMN esclusa.batch.id IS 'A pure function of source, table and slot.';
COMMENT ON COLUMN esclusa.batch.slot
    IS '`initial`, or the start of the window: what gives the batch its identity.';
COMMENT ON COLUMN esclusa.batch.window_start IS 'Inclusive; NULL reads from the beginning.';
COMMENT ON COLUMN esclusa.batch.window_end IS 'Exclusive.';
COMMENT ON COLUMN esclusa.batch.extent_column IS 'Narrows the window; NULL: all of it.';
COMMENT ON COLUMN esclusa.batch.extent_low IS 'Inclusive, as the source spells it; NULL: no bound.';
COMMENT ON COLUMN esclusa.batch.extent_high IS 'Exclusive.';
COMMENT ON COLUMN esclusa.batch.is_bulk IS 'Waits behind the windows that are due now.';
COMMENT ON COLUMN esclusa.batch.contract_version
    IS 'Frozen by the first insert; only a replay may change it.';
COMMENT ON COLUMN esclusa.batch.configuration_sha256 IS 'The SHA-256 of that contract.';
COMMENT ON COLUMN esclusa.batch.changed_at IS 'When the state was entered.';
COMMENT ON COLUMN esclusa.batch.extract_attempt
    IS 'The number of the latest attempt; 0 before the first.';
COMMENT ON COLUMN esclusa.batch.extract_attempts_before_replay
    IS 'The allowed number of attempts counts from here.';
COMMENT ON COLUMN esclusa.batch.committed_attempt
    IS 'The process attempt whose files in final/ readers may see; NULL before a gate found them correct.';
COMMENT ON COLUMN esclusa.batch.counts IS 'Rows by name: rows_read, rows_written, rows_in_final …';
COMMENT ON COLUMN esclusa.batch.reason IS 'Why it is held, or why its last attempt failed.';
COMMENT ON COLUMN esclusa.batch.detail IS 'The same as a sentence.';
COMMENT ON COLUMN esclusa.batch.woken_at
    IS 'When a message last went out for this state; NULL in `planned`: waits for a place at its source.';
COMMENT ON COLUMN esclusa.batch.wake_count IS 'How many messages went out for this state.';
COMMENT ON COLUMN esclusa.batch.not_before IS 'The next attempt begins no earlier.';
COMMENT ON COLUMN esclusa.batch.is_approved
    IS 'An operator approved what its limits would hold back.';
COMMENT ON COLUMN esclusa.batch.revision
    IS 'Counts up with every change; who saves an older one is refused.';
""",
    f"""
CREATE TABLE esclusa.attempt (
    batch_id text COLLATE "C" NOT NULL,
    stage text NOT NULL,
    number integer NOT NULL,
    claim_order bigint GENERATED ALWAYS AS IDENTITY,
    worker text NOT NULL,
    state text NOT NULL,
    claimed_at timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    ended_at timestamptz,
    reason text,
    detail text NOT NULL,
    CONSTRAINT attempt_key PRIMARY KEY (batch_id, stage, number),
    CONSTRAINT attempt_batch_exists FOREIGN KEY (batch_id)
        REFERENCES esclusa.batch (id),
    CONSTRAINT attempt_stage_is_known CHECK (stage IN ('extract', 'process', 'publish')),
    CONSTRAINT attempt_state_is_known CHECK (state IN ('running', 'succeeded', 'failed', 'expired')),
    CONSTRAINT attempt_reason_is_known CHECK (reason IN ({_REASONS})),
    CONSTRAINT attempt_number_is_from_1 CHECK (number >= 1)
);
CREATE INDEX attempt_running ON esclusa.attempt (lease_until)
    WHERE state = 'running';
COMMENT ON TABLE esclusa.attempt IS 'One claimed try of one stage of one batch.';
COMMENT ON COLUMN esclusa.attempt.number
    IS 'Counts up from 1 within batch and stage. In the keys of the attempt''s files.';
COMMENT ON COLUMN esclusa.attempt.claim_order IS 'Sorts a batch''s attempts.';
COMMENT ON COLUMN esclusa.attempt.lease_until IS 'From then on another attempt may take over.';
COMMENT ON COLUMN esclusa.attempt.detail IS 'Why it failed, as a sentence.';
""",
    f"""
CREATE TABLE esclusa.batch_event (
    batch_id text COLLATE "C" NOT NULL,
    sequence integer NOT NULL,
    previous_sequence integer GENERATED ALWAYS AS (NULLIF(sequence - 1, 0)) STORED,
    from_state text,
    to_state text NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    reason text,
    detail text NOT NULL,
    CONSTRAINT batch_event_key PRIMARY KEY (batch_id, sequence),
    CONSTRAINT batch_event_can_be_followed UNIQUE (batch_id, sequence, to_state),
    CONSTRAINT batch_event_batch_exists FOREIGN KEY (batch_id)
        REFERENCES esclusa.batch (id),
    CONSTRAINT batch_event_allowed_edge_exists FOREIGN KEY (from_state, to_state)
        REFERENCES esclusa.allowed_edge (from_state, to_state),
    CONSTRAINT batch_event_follows_the_last FOREIGN KEY (batch_id, previous_sequence, from_state)
        REFERENCES esclusa.batch_event (batch_id, sequence, to_state),
    CONSTRAINT batch_event_to_state_is_known CHECK (to_state IN ({_STATES})),
    CONSTRAINT batch_event_reason_is_known CHECK (reason IN ({_REASONS})),
    CONSTRAINT batch_event_sequence_is_from_1 CHECK (sequence >= 1),
    CONSTRAINT batch_event_only_the_first_comes_from_nowhere CHECK ((sequence = 1) = (from_state IS NULL)),
    CONSTRAINT batch_event_history_begins_planned CHECK (from_state IS NOT NULL OR to_state = 'planned')
);
COMMENT ON TABLE esclusa.batch_event
    IS 'The history of every batch: each transition, who made it and why. Added to, never changed.';
COMMENT ON COLUMN esclusa.batch_event.sequence IS 'Counts up from 1 within a batch, without gaps.';
COMMENT ON COLUMN esclusa.batch_event.previous_sequence IS 'Ties the event to the one before it.';
COMMENT ON COLUMN esclusa.batch_event.from_state
    IS 'The state that the event before led to; NULL for the first.';
COMMENT ON COLUMN esclusa.batch_event.actor
    IS 'Who spoke: planner, extract#2, gate:tmp, sweeper, operator.';
COMMENT ON COLUMN esclusa.batch_event.detail IS 'The reason as a sentence.';
""",
    """
CREATE TABLE esclusa.manifest (
    batch_id text COLLATE "C" NOT NULL,
    stage text NOT NULL,
    attempt integer NOT NULL,
    document json NOT NULL,
    CONSTRAINT manifest_key PRIMARY KEY (batch_id, stage, attempt),
    CONSTRAINT manifest_attempt_exists FOREIGN KEY (batch_id, stage, attempt)
        REFERENCES esclusa.attempt (batch_id, stage, number)
);
COMMENT ON TABLE esclusa.manifest IS 'The typed manifest of every attempt that succeeded.';
COMMENT ON COLUMN esclusa.manifest.document
    IS 'What the attempt wrote down of its files, as it wrote it.';
""",
    f"""
CREATE TABLE esclusa.data_file (
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    area text NOT NULL,
    format text NOT NULL,
    batch_id text COLLATE "C",
    attempt integer NOT NULL,
    part integer NOT NULL,
    record_count bigint NOT NULL,
    file_size_in_bytes bigint NOT NULL,
    sha256 text NOT NULL,
    status text NOT NULL,
    reason text,
    detail text NOT NULL,
    recorded_at timestamptz NOT NULL,
    checked_at timestamptz,
    deleted_at timestamptz,
    is_in_transit boolean
        GENERATED ALWAYS AS (deleted_at IS NULL AND area IN ('tmp', 'input', 'processing')) STORED,
    CONSTRAINT data_file_key PRIMARY KEY (bucket, key),
    CONSTRAINT data_file_batch_exists FOREIGN KEY (batch_id)
        REFERENCES esclusa.batch (id),
    CONSTRAINT data_file_area_is_known CHECK (area IN ('tmp', 'input', 'processing', 'final', 'quarantine')),
    CONSTRAINT data_file_format_is_known CHECK (format IN ('csv', 'parquet', 'rejects', 'foreign')),
    CONSTRAINT data_file_status_is_known CHECK (status IN ('announced', 'correct', 'incorrect')),
    CONSTRAINT data_file_reason_is_known CHECK (reason IN ({_REASONS})),
    CONSTRAINT data_file_numbers_are_not_negative
        CHECK (attempt >= 0 AND part >= 0 AND record_count >= 0 AND file_size_in_bytes >= 0)
);
CREATE INDEX data_file_by_batch ON esclusa.data_file (batch_id, area, key);
CREATE INDEX data_file_in_transit ON esclusa.data_file (batch_id)
    WHERE is_in_transit;
CREATE INDEX data_file_present ON esclusa.data_file (area, key, bucket)
    WHERE deleted_at IS NULL;
COMMENT ON TABLE esclusa.data_file
    IS 'One object in one area, and what is known of it. Rows are never deleted.';
COMMENT ON COLUMN esclusa.data_file.batch_id IS 'NULL for an object that no attempt wrote.';
COMMENT ON COLUMN esclusa.data_file.attempt
    IS 'Of extract for CSV, of process for Parquet; a copy has that of its original.';
COMMENT ON COLUMN esclusa.data_file.status
    IS 'announced by its writer, then correct or incorrect by its gate.';
COMMENT ON COLUMN esclusa.data_file.reason IS 'Why a gate refused it.';
COMMENT ON COLUMN esclusa.data_file.detail IS 'The same as a sentence.';
COMMENT ON COLUMN esclusa.data_file.checked_at IS 'When its gate last looked at it.';
COMMENT ON COLUMN esclusa.data_file.deleted_at IS 'When the object was deleted; this row stays.';
COMMENT ON COLUMN esclusa.data_file.is_in_transit
    IS 'Still in tmp/, input/ or processing/; false for every file of a batch that is done.';
""",
    """
CREATE TABLE esclusa.mask_evidence (
    batch_id text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    column_name text COLLATE "C" NOT NULL,
    mask text NOT NULL,
    key_id text NOT NULL,
    masked_value_count bigint NOT NULL,
    CONSTRAINT mask_evidence_key PRIMARY KEY (batch_id, attempt, column_name),
    CONSTRAINT mask_evidence_batch_exists FOREIGN KEY (batch_id)
        REFERENCES esclusa.batch (id),
    CONSTRAINT mask_evidence_mask_is_known
        CHECK (mask IN ('keep', 'drop', 'withhold', 'hmac', 'redact', 'last4', 'constant', 'truncate',
                        'bucket')),
    CONSTRAINT mask_evidence_count_is_not_negative CHECK (masked_value_count >= 0)
);
COMMENT ON TABLE esclusa.mask_evidence
    IS 'What was done to each column of each extract attempt: the proof that personal data was masked.';
COMMENT ON COLUMN esclusa.mask_evidence.attempt IS 'Of extract.';
COMMENT ON COLUMN esclusa.mask_evidence.key_id
    IS 'The id of the key of a pseudonym; empty for masks without a key.';
COMMENT ON COLUMN esclusa.mask_evidence.masked_value_count
    IS 'Values that left masked; NULLs are not counted. 0 for columns that did not leave.';
""",
    """
CREATE TABLE esclusa.source_guard (
    source text COLLATE "C" NOT NULL,
    max_concurrent_extracts integer NOT NULL,
    rows_per_second integer,
    deadline interval NOT NULL,
    quiet_hours text[] NOT NULL,
    failures_in_a_row integer NOT NULL,
    open_until timestamptz,
    CONSTRAINT source_guard_key PRIMARY KEY (source),
    CONSTRAINT source_guard_numbers_make_sense
        CHECK (max_concurrent_extracts >= 1 AND rows_per_second >= 1 AND failures_in_a_row >= 0)
);
COMMENT ON TABLE esclusa.source_guard
    IS 'What the fleet may take of a source, and whether it answers.';
COMMENT ON COLUMN esclusa.source_guard.max_concurrent_extracts
    IS 'Of the whole fleet; as the source file says.';
COMMENT ON COLUMN esclusa.source_guard.rows_per_second
    IS 'Of the whole fleet; as the source file says.';
COMMENT ON COLUMN esclusa.source_guard.deadline
    IS 'The reading of one batch takes no longer.';
COMMENT ON COLUMN esclusa.source_guard.quiet_hours
    IS 'No batch begins in these; spelled as in the source file.';
COMMENT ON COLUMN esclusa.source_guard.failures_in_a_row
    IS 'Extract attempts that failed or died since the last that did not.';
COMMENT ON COLUMN esclusa.source_guard.open_until
    IS 'The breaker: nothing of the source is claimed before.';
""",
    """
CREATE TABLE esclusa.expectation (
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    every interval NOT NULL,
    expected_by interval NOT NULL,
    since timestamptz NOT NULL,
    CONSTRAINT expectation_key PRIMARY KEY (source, table_name)
);
COMMENT ON TABLE esclusa.expectation
    IS 'By when the rows of each table are expected, as the source files say.';
COMMENT ON COLUMN esclusa.expectation.every IS 'How often a window of the table ends.';
COMMENT ON COLUMN esclusa.expectation.expected_by
    IS 'A window''s rows are expected in the warehouse by so long after its end.';
COMMENT ON COLUMN esclusa.expectation.since IS 'When the table was first expected.';
""",
    """
CREATE TABLE esclusa.alarm (
    kind text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    raised_at timestamptz NOT NULL,
    detail text NOT NULL,
    resolved_at timestamptz,
    raise_told_at timestamptz,
    resolve_told_at timestamptz,
    CONSTRAINT alarm_key PRIMARY KEY (kind, subject, raised_at),
    CONSTRAINT alarm_kind_is_known CHECK (kind IN
        ('table_late', 'batch_held', 'dead_letters', 'source_failing', 'outbox_stuck', 'proof_differs'))
);
CREATE UNIQUE INDEX alarm_open_once ON esclusa.alarm (kind, subject)
    WHERE resolved_at IS NULL;
CREATE INDEX alarm_by_raised_at ON esclusa.alarm (raised_at DESC);
COMMENT ON TABLE esclusa.alarm
    IS 'What people are told of without asking. One row for each time a condition came up.';
COMMENT ON COLUMN esclusa.alarm.subject IS 'What it is about: a table, a batch, a queue, a source.';
COMMENT ON COLUMN esclusa.alarm.detail IS 'What was found and what to do.';
COMMENT ON COLUMN esclusa.alarm.resolved_at IS 'When the condition was found to be gone.';
COMMENT ON COLUMN esclusa.alarm.raise_told_at IS 'When a notice of it left.';
COMMENT ON COLUMN esclusa.alarm.resolve_told_at IS 'When a notice of its end left.';
""",
    """
CREATE TABLE esclusa.proof (
    id bigint GENERATED ALWAYS AS IDENTITY,
    source text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    window_start timestamptz,
    window_end timestamptz NOT NULL,
    extent_column text,
    extent_low text,
    extent_high text,
    proved_at timestamptz NOT NULL,
    is_equal boolean NOT NULL,
    detail text NOT NULL,
    sides jsonb NOT NULL,
    CONSTRAINT proof_key PRIMARY KEY (id)
);
CREATE INDEX proof_by_window
    ON esclusa.proof (source, table_name, window_start, window_end, proved_at);
CREATE INDEX proof_differing ON esclusa.proof (source, table_name) WHERE is_equal IS false;
COMMENT ON TABLE esclusa.proof
    IS 'What each comparison of source, CSV, Parquet and warehouse found. Added to, never changed.';
COMMENT ON COLUMN esclusa.proof.extent_column IS 'Which part of the window; NULL: all of it.';
COMMENT ON COLUMN esclusa.proof.detail IS 'The first difference, without values.';
COMMENT ON COLUMN esclusa.proof.sides IS 'Counts and checksums that each side showed.';
""",
    """
CREATE TABLE esclusa.recount (
    batch_id text COLLATE "C" NOT NULL,
    counted_at timestamptz NOT NULL,
    row_count bigint NOT NULL,
    CONSTRAINT recount_key PRIMARY KEY (batch_id),
    CONSTRAINT recount_batch_exists FOREIGN KEY (batch_id)
        REFERENCES esclusa.batch (id)
);
COMMENT ON TABLE esclusa.recount
    IS 'The last count of what each batch has read, taken after it was published.';
COMMENT ON COLUMN esclusa.recount.row_count
    IS 'Rows at the source within what the batch reads, overlap included.';
""",
    """
CREATE TABLE esclusa.last_run (
    name text COLLATE "C" NOT NULL,
    ran_at timestamptz NOT NULL,
    CONSTRAINT last_run_key PRIMARY KEY (name)
);
COMMENT ON TABLE esclusa.last_run IS 'When each scheduled part of the fleet last did its work.';
COMMENT ON COLUMN esclusa.last_run.name IS 'Of a scheduled part of the fleet, such as the watcher.';
""",
    """
CREATE TABLE esclusa.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY,
    queue text NOT NULL,
    body text NOT NULL,
    message_group text NOT NULL,
    posted_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT outbox_key PRIMARY KEY (id),
    CONSTRAINT outbox_queue_is_known
        CHECK (queue IN ('extract', 'backfill', 'process', 'publish', 'gate-tmp', 'gate-input', 'gate-processing', 'gate-final', 'clean'))
);
COMMENT ON TABLE esclusa.outbox
    IS 'Messages that were decided and are not known to be sent. A row goes when its message has left.';
COMMENT ON COLUMN esclusa.outbox.id IS 'The order of sending.';
COMMENT ON COLUMN esclusa.outbox.body IS 'Readable JSON: ids only, no rows, no secrets.';
COMMENT ON COLUMN esclusa.outbox.message_group IS 'The source: no source delays another.';
""",
)

_REFUSALS = """
CREATE FUNCTION esclusa.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END
$$;
COMMENT ON FUNCTION esclusa.refuse() IS 'Refuses what its trigger is for, with the reason given.';

CREATE FUNCTION esclusa.refuse_unknown_edge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM esclusa.allowed_edge WHERE from_state = OLD.state AND to_state = NEW.state
    ) THEN
        RAISE EXCEPTION 'batch %: no edge leads from % to %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION esclusa.refuse_unknown_edge() IS 'Refuses a batch a state to which no allowed edge leads.';

CREATE TRIGGER batch_goes_along_edges
    BEFORE UPDATE ON esclusa.batch FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION esclusa.refuse_unknown_edge();
CREATE TRIGGER batch_keeps_its_identity
    BEFORE UPDATE ON esclusa.batch FOR EACH ROW
    WHEN ((OLD.id, OLD.source, OLD.table_name, OLD.slot,
            OLD.window_start, OLD.window_end, OLD.extent_column, OLD.extent_low, OLD.extent_high, OLD.is_bulk,
            OLD.bucket, OLD.planned_at)
        IS DISTINCT FROM
        (NEW.id, NEW.source, NEW.table_name, NEW.slot,
            NEW.window_start, NEW.window_end, NEW.extent_column, NEW.extent_low, NEW.extent_high, NEW.is_bulk,
            NEW.bucket, NEW.planned_at))
    EXECUTE FUNCTION esclusa.refuse('the identity and the window of a batch are fixed by its first insert');
CREATE TRIGGER batch_is_never_deleted
    BEFORE DELETE ON esclusa.batch FOR EACH ROW
    EXECUTE FUNCTION esclusa.refuse('a batch is never deleted');
CREATE TRIGGER batch_is_never_truncated
    BEFORE TRUNCATE ON esclusa.batch FOR EACH STATEMENT
    EXECUTE FUNCTION esclusa.refuse('a batch is never deleted');

CREATE TRIGGER batch_event_is_never_changed
    BEFORE UPDATE OR DELETE ON esclusa.batch_event FOR EACH ROW
    EXECUTE FUNCTION esclusa.refuse('the history of a batch is never changed');
CREATE TRIGGER batch_event_is_never_truncated
    BEFORE TRUNCATE ON esclusa.batch_event FOR EACH STATEMENT
    EXECUTE FUNCTION esclusa.refuse('the history of a batch is never changed');

CREATE TRIGGER data_file_is_immutable
    BEFORE UPDATE ON esclusa.data_file FOR EACH ROW
    WHEN ((OLD.bucket, OLD.key, OLD.area, OLD.format, OLD.batch_id, OLD.attempt, OLD.part,
            OLD.record_count, OLD.file_size_in_bytes, OLD.sha256, OLD.recorded_at)
        IS DISTINCT FROM
        (NEW.bucket, NEW.key, NEW.area, NEW.format, NEW.batch_id, NEW.attempt, NEW.part,
            NEW.record_count, NEW.file_size_in_bytes, NEW.sha256, NEW.recorded_at))
    EXECUTE FUNCTION esclusa.refuse('what a data file is never changes, only what is known of it');
CREATE TRIGGER data_file_is_never_deleted
    BEFORE DELETE ON esclusa.data_file FOR EACH ROW
    EXECUTE FUNCTION esclusa.refuse('a data file is never deleted from the ledger; set deleted_at');
CREATE TRIGGER data_file_is_never_truncated
    BEFORE TRUNCATE ON esclusa.data_file FOR EACH STATEMENT
    EXECUTE FUNCTION esclusa.refuse('a data file is never deleted from the ledger; set deleted_at');

CREATE TRIGGER contract_is_frozen
    BEFORE UPDATE OR DELETE ON esclusa.contract FOR EACH ROW
    EXECUTE FUNCTION esclusa.refuse('a contract is frozen; register a new version');
CREATE TRIGGER contract_is_never_truncated
    BEFORE TRUNCATE ON esclusa.contract FOR EACH STATEMENT
    EXECUTE FUNCTION esclusa.refuse('a contract is frozen; register a new version');

CREATE TRIGGER mask_evidence_is_never_changed
    BEFORE UPDATE OR DELETE ON esclusa.mask_evidence FOR EACH ROW
    EXECUTE FUNCTION esclusa.refuse('evidence is never changed');
CREATE TRIGGER mask_evidence_is_never_truncated
    BEFORE TRUNCATE ON esclusa.mask_evidence FOR EACH STATEMENT
    EXECUTE FUNCTION esclusa.refuse('evidence is never changed');
"""
