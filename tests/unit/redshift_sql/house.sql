-- create what loads stand on
CREATE SCHEMA IF NOT EXISTS "shop";

-- create what loads stand on
CREATE SCHEMA IF NOT EXISTS "shop__base";

-- create what loads stand on
GRANT USAGE ON SCHEMA "shop" TO ROLE "analysts";

-- create what loads stand on
GRANT SELECT ON ALL TABLES IN SCHEMA "shop" TO ROLE "analysts";

-- create what loads stand on
ALTER DEFAULT PRIVILEGES IN SCHEMA "shop" GRANT SELECT ON TABLES TO ROLE "analysts";

-- create what loads stand on
CREATE TABLE IF NOT EXISTS "shop__base"."_esclusa_loads" (batch_id VARCHAR(64) NOT NULL ENCODE ZSTD, source VARCHAR(128) NOT NULL ENCODE ZSTD, table_name VARCHAR(512) NOT NULL ENCODE ZSTD, mode VARCHAR(16) NOT NULL ENCODE ZSTD, slot VARCHAR(256) NOT NULL ENCODE ZSTD, window_start TIMESTAMPTZ ENCODE AZ64, window_end TIMESTAMPTZ NOT NULL ENCODE AZ64, contract_version INTEGER NOT NULL ENCODE AZ64, publish_attempt INTEGER NOT NULL ENCODE AZ64, manifest_sha256 CHAR(64) NOT NULL ENCODE ZSTD, rows_staged BIGINT NOT NULL ENCODE AZ64, rows_inserted BIGINT NOT NULL ENCODE AZ64, rows_updated BIGINT NOT NULL ENCODE AZ64, rows_unchanged BIGINT NOT NULL ENCODE AZ64, rows_deleted BIGINT NOT NULL ENCODE AZ64, loaded_at TIMESTAMP NOT NULL DEFAULT SYSDATE ENCODE AZ64) DISTSTYLE AUTO;

-- create what loads stand on
CREATE TABLE IF NOT EXISTS "shop__base"."_esclusa_rebuilds" (id VARCHAR(128) NOT NULL ENCODE ZSTD, table_name VARCHAR(512) NOT NULL ENCODE ZSTD, turn BIGINT NOT NULL ENCODE AZ64, is_held BOOLEAN NOT NULL ENCODE RAW, row_count BIGINT NOT NULL ENCODE AZ64) DISTSTYLE AUTO;

-- create what loads stand on
CREATE TABLE IF NOT EXISTS "shop__base"."_esclusa_turn_1c168adb00d208e4" ("turn" BIGINT NOT NULL ENCODE RAW) DISTSTYLE ALL;

-- create what loads stand on
CREATE OR REPLACE VIEW "shop"."_esclusa_loads" AS SELECT table_name AS "table_name", batch_id AS "batch_id", mode AS "mode", window_start AS "window_start", window_end AS "window_end", rows_staged AS "row_count", rows_inserted AS "rows_inserted", rows_updated AS "rows_updated", rows_deleted AS "rows_deleted", contract_version AS "contract_version", loaded_at AT TIME ZONE 'UTC' AS "loaded_at", CAST(EXTRACT(EPOCH FROM loaded_at) - EXTRACT(EPOCH FROM window_end AT TIME ZONE 'UTC') AS BIGINT) AS "delay_seconds", MIN(follows) OVER (PARTITION BY table_name ORDER BY window_end, window_start, batch_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) = 1 AS "is_gapless", COALESCE(is_held, FALSE) AS "is_rolled_back" FROM (SELECT l.*, h.is_held, CASE WHEN mode <> 'prune' AND window_start > MAX(CASE WHEN mode <> 'prune' THEN window_end END) OVER (PARTITION BY table_name ORDER BY window_end, window_start, batch_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) THEN 0 ELSE 1 END AS follows FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY batch_id ORDER BY publish_attempt DESC, loaded_at DESC) AS n FROM "shop__base"."_esclusa_loads") AS l LEFT JOIN (SELECT table_name AS held_table, is_held, ROW_NUMBER() OVER (PARTITION BY table_name ORDER BY turn DESC) AS r FROM "shop__base"."_esclusa_rebuilds") AS h ON h.held_table = l.table_name AND h.r = 1 WHERE l.n = 1) AS marked WITH NO SCHEMA BINDING;

