-- lock the table's turn
LOCK TABLE "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- see whose turn it is
SELECT CAST(CASE WHEN COALESCE(MAX("turn"), 0) <> 7 THEN 'esclusa turn ' || CAST(COALESCE(MAX("turn"), 0) AS VARCHAR(20)) ELSE '0' END AS INTEGER) AS "held" FROM "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- set the marker
INSERT INTO "shop__base"."_esclusa_loads" (batch_id, source, table_name, mode, slot, window_start, window_end, contract_version, publish_attempt, manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted) SELECT 'b000000000000000000000001', 'shop', 'orders', 'prune', '2026-11-22T12:15:00.000000Z', CAST('2026-11-22 12:00:00.000000+00' AS TIMESTAMPTZ), CAST('2026-11-22 12:15:00.000000+00' AS TIMESTAMPTZ), 3, 1, '977ba962873f11e88593672d392507e056081ae9e476f88f07e3a05b7ccecfcb', 3, 0, 0, 0, 0;

-- take the turn
INSERT INTO "shop__base"."_esclusa_turn_1c168adb00d208e4" ("turn") VALUES (8);

