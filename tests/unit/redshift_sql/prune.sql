-- lock the table's turn
LOCK TABLE "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- see whose turn it is
SELECT CAST(CASE WHEN COALESCE(MAX("turn"), 0) <> 7 THEN 'esclusa turn ' || CAST(COALESCE(MAX("turn"), 0) AS VARCHAR(20)) ELSE '0' END AS INTEGER) AS "held" FROM "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- create the stage
CREATE TEMPORARY TABLE "_esclusa_stage" ("id" BIGINT, "code" VARCHAR(16));

-- copy the files
COPY "_esclusa_stage" ("id", "code") FROM 's3://esclusa-shop/tmp/orders/b000000000000000000000001/m1/files-00000.manifest' IAM_ROLE 'arn:aws:iam::123456789012:role/esclusa-copy' FORMAT AS PARQUET MANIFEST;

-- prove what was staged
SELECT CAST(CASE WHEN COUNT(*) <> 3 THEN 'esclusa rows ' || CAST(COUNT(*) AS VARCHAR(20)) WHEN COUNT(*) - COUNT("id") <> 0 THEN 'esclusa nulls 1 ' || CAST(COUNT(*) - COUNT("id") AS VARCHAR(20)) WHEN COALESCE(SUM(CAST("id" AS DECIMAL(38,0))), 0) <> CAST('-6' AS DECIMAL(38,0)) THEN 'esclusa total 1 ' || CAST(COUNT(*) AS VARCHAR(20)) WHEN COUNT(*) - COUNT("code") <> 0 THEN 'esclusa nulls 2 ' || CAST(COUNT(*) - COUNT("code") AS VARCHAR(20)) WHEN COALESCE(SUM(CAST(OCTET_LENGTH("code") AS BIGINT)), 0) <> 9 THEN 'esclusa bytes 2 ' || CAST(COUNT(*) AS VARCHAR(20)) ELSE '0' END AS INTEGER) AS "held" FROM "_esclusa_stage";

-- choose what is gone
CREATE TEMPORARY TABLE "_esclusa_gone" AS SELECT b."id" AS "id", b."code" AS "code" FROM "shop__base"."orders" AS b INNER JOIN (SELECT batch_id, contract_version, ROW_NUMBER() OVER (PARTITION BY batch_id ORDER BY publish_attempt DESC) AS n FROM "shop__base"."_esclusa_loads") AS m ON m.batch_id = b."_esclusa_batch_id" LEFT JOIN "_esclusa_stage" AS s ON b."id" = s."id" AND b."code" = s."code" AND OCTET_LENGTH(b."code") = OCTET_LENGTH(s."code") WHERE m.n = 1 AND m.contract_version IN (2, 3) AND b."_esclusa_window_end" <= CAST('2026-11-22 12:15:00.000000+00' AS TIMESTAMPTZ) AND s."id" IS NULL;

-- see that not too many are gone
SELECT CAST(CASE WHEN MAX(g."n") > 1000 AND MAX(g."n") > CAST(0.1 AS DOUBLE PRECISION) * MAX(t."n") THEN 'esclusa burst ' || CAST(MAX(g."n") AS VARCHAR(20)) || ' ' || CAST(MAX(t."n") AS VARCHAR(20)) ELSE '0' END AS INTEGER) AS "held" FROM (SELECT COUNT(*) AS "n" FROM "_esclusa_gone") AS g CROSS JOIN (SELECT COUNT(*) AS "n" FROM "shop__base"."orders") AS t;

-- delete what is gone
DELETE FROM "shop__base"."orders" USING "_esclusa_gone" WHERE "orders"."id" = "_esclusa_gone"."id" AND "orders"."code" = "_esclusa_gone"."code" AND OCTET_LENGTH("orders"."code") = OCTET_LENGTH("_esclusa_gone"."code");

-- set the marker
INSERT INTO "shop__base"."_esclusa_loads" (batch_id, source, table_name, mode, slot, window_start, window_end, contract_version, publish_attempt, manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted) SELECT 'b000000000000000000000001', 'shop', 'orders', 'prune', '2026-11-22T12:15:00.000000Z', CAST('2026-11-22 12:00:00.000000+00' AS TIMESTAMPTZ), CAST('2026-11-22 12:15:00.000000+00' AS TIMESTAMPTZ), 3, 1, '977ba962873f11e88593672d392507e056081ae9e476f88f07e3a05b7ccecfcb', 3, 0, 0, 0, COUNT(*) FROM "_esclusa_gone";

-- take the turn
INSERT INTO "shop__base"."_esclusa_turn_1c168adb00d208e4" ("turn") VALUES (8);

