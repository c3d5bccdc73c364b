"""
The SQL text of what the PostgreSQL warehouse keeps beside the rows: which batch is in which table.

Markers and rebuilds are Esclusa's own, in the schema `_esclusa`; the view beside a source's tables is for analysts.
"""

from services.publisher.statements import LOADS, OWN_SCHEMA, quote_identifier, quote_text
from services.publisher.warehouse import LOADS_COLUMNS, LOADS_VIEW

REBUILDS = f"{quote_identifier(OWN_SCHEMA)}.rebuilds"

#: One row per batch that is in the warehouse, written in the transaction that brought it there.
CREATE_LOADS = f"""
CREATE TABLE IF NOT EXISTS {LOADS} (
    batch_id text PRIMARY KEY,
    source text NOT NULL,
    table_name text NOT NULL,
    mode text NOT NULL,
    slot text NOT NULL,
    window_start timestamptz,
    window_end timestamptz NOT NULL,
    contract_version integer NOT NULL,
    publish_attempt integer NOT NULL,
    manifest_sha256 text NOT NULL,
    rows_staged bigint NOT NULL,
    rows_inserted bigint NOT NULL,
    rows_updated bigint NOT NULL,
    rows_unchanged bigint NOT NULL,
    rows_deleted bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

#: For the newest window and contract of a table.
INDEX_LOADS = f"CREATE INDEX IF NOT EXISTS loads_by_table ON {LOADS} (source, table_name, window_end)"

#: The marker of a batch.
FIND_LOAD = f"""
SELECT publish_attempt, manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted
FROM {LOADS} WHERE batch_id = $1
"""

#: What stands in place of the publish mode in the marker of a key sweep, which brings nothing.
PRUNE_MODE = "prune"

#: Up to where other batches of a table are loaded, and the newest contract any of them had.
FIND_TABLE_STATE = f"""
SELECT max(window_end) FILTER (WHERE batch_id <> $3), max(contract_version)
FROM {LOADS} WHERE source = $1 AND table_name = $2 AND mode <> '{PRUNE_MODE}'
"""

#: Set the marker of a batch. A replay with other files takes the place of what was there.
SAVE_LOAD = f"""
INSERT INTO {LOADS} (
    batch_id, source, table_name, mode, slot, window_start, window_end, contract_version, publish_attempt,
    manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (batch_id) DO UPDATE SET
    mode = EXCLUDED.mode, contract_version = EXCLUDED.contract_version,
    publish_attempt = EXCLUDED.publish_attempt, manifest_sha256 = EXCLUDED.manifest_sha256,
    rows_staged = EXCLUDED.rows_staged, rows_inserted = EXCLUDED.rows_inserted,
    rows_updated = EXCLUDED.rows_updated, rows_unchanged = EXCLUDED.rows_unchanged,
    rows_deleted = EXCLUDED.rows_deleted, loaded_at = EXCLUDED.loaded_at
"""


#: Of batches that were withdrawn.
DELETE_LOADS = f"DELETE FROM {LOADS} WHERE batch_id = ANY ($1::text[])"

#: One row per rebuild of a table. The last one of a table says whether it is held at an earlier state.
CREATE_REBUILDS = f"""
CREATE TABLE IF NOT EXISTS {REBUILDS} (
    id text PRIMARY KEY,
    sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL,
    table_name text NOT NULL,
    is_held boolean NOT NULL,
    row_count bigint NOT NULL,
    rebuilt_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

#: Whether a rebuild was done.
FIND_REBUILD = f"SELECT row_count FROM {REBUILDS} WHERE id = $1"

#: What holds a table at an earlier state.
FIND_HOLD = f"""
SELECT id FROM (
    SELECT id, is_held FROM {REBUILDS} WHERE source = $1 AND table_name = $2 ORDER BY sequence DESC LIMIT 1
) AS newest WHERE is_held
"""

#: Say that a rebuild was done.
SAVE_REBUILD = f"""
INSERT INTO {REBUILDS} (id, source, table_name, is_held, row_count) VALUES ($1, $2, $3, $4, $5)
"""


# ---- what analysts see ---------------------------------------------------------------------------------------


#: Whether the markers, the rebuilds and the view of a source are there.
COUNT_RELATIONS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) AS wanted(schema_name, relation) ON n.nspname = schema_name AND c.relname = relation
"""


def create_loads_view(source: str) -> str:
    """
    Create the view that tells what is loaded of a source: its columns are those of `LOADS_COLUMNS`.

    It shows nothing of files, attempts or other sources. A view reads by the rights of its owner, so nobody needs
    any on the markers themselves.
    """
    columns = ", ".join(map(quote_identifier, LOADS_COLUMNS))
    by_window = "PARTITION BY table_name ORDER BY window_end, window_start, batch_id"
    before = "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
    return f"""
CREATE OR REPLACE VIEW {quote_identifier(source)}.{quote_identifier(LOADS_VIEW)} ({columns}) AS
SELECT table_name, batch_id, mode, window_start, window_end, rows_staged, rows_inserted, rows_updated, rows_deleted,
    contract_version, loaded_at, round(extract(epoch FROM loaded_at - window_end))::bigint,
    bool_and(follows) OVER ({by_window}),
    coalesce((
        SELECT r.is_held FROM {REBUILDS} AS r WHERE r.source = marked.source AND r.table_name = marked.table_name
        ORDER BY r.sequence DESC LIMIT 1
    ), false)
FROM (
    SELECT *,
        coalesce(
            mode = '{PRUNE_MODE}' OR window_start IS NULL OR window_start <= max(CASE WHEN mode <> '{PRUNE_MODE}' THEN window_end END)
                OVER ({by_window} {before}),
            true
        ) AS follows
    FROM {LOADS} WHERE source = {quote_text(source)}
) AS marked"""


def comment_loads_view(source: str) -> str:
    """Say on the view what it is."""
    view = f"{quote_identifier(source)}.{quote_identifier(LOADS_VIEW)}"
    return f"COMMENT ON VIEW {view} IS {quote_text('every batch that is in a table of ' + source)}"


# ---- the analysts' role --------------------------------------------------------------------------------------


#: Whether a role may use a schema, and reads by default whatever is created in it by us; no row if there is no such role.
FIND_READER = """
SELECT has_schema_privilege(r.oid, $2, 'USAGE') AND EXISTS (
    SELECT FROM pg_default_acl d
    JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) AS acl
    WHERE n.nspname = $2 AND d.defaclobjtype = 'r' AND d.defaclrole = current_user::regrole
      AND acl.grantee = r.oid AND acl.privilege_type = 'SELECT'
) FROM pg_roles r WHERE r.rolname = $1
"""


def grant_reading(source: str, *, role: str) -> list[str]:
    """Let a role read what is in the schema of a source, and whatever will be."""
    schema, reader = quote_identifier(source), quote_identifier(role)
    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {reader}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}",
    ]
