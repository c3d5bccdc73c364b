-- look for what loads stand on
SELECT c.relname, CAST(c.relkind AS VARCHAR(1)) FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname IN (:views, :bases) AND c.relname IN (:loads, :rebuilds, :turn);

-- look at the columns
SELECT a.attname, FORMAT_TYPE(a.atttypid, a.atttypmod), COALESCE(d.description, '') FROM pg_attribute AS a INNER JOIN pg_class AS c ON c.oid = a.attrelid INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace LEFT JOIN pg_description AS d ON d.objoid = c.oid AND d.objsubid = a.attnum WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;

-- look for a relation
SELECT CAST(c.relkind AS VARCHAR(1)), COALESCE(d.description, '') FROM pg_class AS c INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace LEFT JOIN pg_description AS d ON d.objoid = c.oid AND d.objsubid = 0 WHERE n.nspname = :schema AND c.relname = :table;

-- look for grants
SELECT privilege_type, identity_name, identity_type, admin_option FROM svv_relation_privileges WHERE namespace_name = :schema AND relation_name = :table;

-- look how far the table is
SELECT t."turn", CAST(o.newest_window_end AS VARCHAR(40)), o.newest_contract, o.others, h.held_by, m.publish_attempt, m.manifest_sha256, m.rows_staged, m.rows_inserted, m.rows_updated, m.rows_unchanged, m.rows_deleted FROM (SELECT COALESCE(MAX("turn"), 0) AS "turn" FROM "shop__base"."_esclusa_turn_1c168adb00d208e4") AS t CROSS JOIN (SELECT MAX(CASE WHEN batch_id <> :batch AND table_name = :table AND mode <> 'prune' THEN window_end END) AT TIME ZONE 'UTC' AS newest_window_end, MAX(CASE WHEN table_name = :table AND mode <> 'prune' THEN contract_version END) AS newest_contract, SUM(CASE WHEN LOWER(table_name) = LOWER(:table) AND table_name <> :table THEN 1 ELSE 0 END) AS others FROM "shop__base"."_esclusa_loads") AS o LEFT JOIN (SELECT CASE WHEN is_held THEN id END AS held_by FROM "shop__base"."_esclusa_rebuilds" WHERE table_name = :table ORDER BY turn DESC LIMIT 1) AS h ON 1 = 1 LEFT JOIN (SELECT publish_attempt, manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted FROM "shop__base"."_esclusa_loads" WHERE batch_id = :batch ORDER BY publish_attempt DESC, loaded_at DESC LIMIT 1) AS m ON 1 = 1;

-- look for the rebuild
SELECT row_count FROM "shop__base"."_esclusa_rebuilds" WHERE id = :id AND table_name = :table;

-- count the rows
SELECT COUNT(*) FROM "shop"."orders";

-- read the rows back
SELECT "id", "code", "small", "whole", "is_paid", "ratio", "rate", "amount", "huge", "day", "local", "changed", "_esclusa_json_139d544b821b13eb", FROM_VARBYTE("photo", 'hex'), "email", "we""ird; drop table x --", "select", "it's 100% naïve ☃" FROM "shop__base"."orders" WHERE "changed" < CAST('2026-11-22 12:15:00.000000+00' AS TIMESTAMPTZ) AND "changed" >= CAST('2026-11-22 12:00:00.000000+00' AS TIMESTAMPTZ);

-- read the rows back
SELECT "id", "code", "small", "whole", "is_paid", "ratio", "rate", "amount", "huge", "day", "local", "changed", "_esclusa_json_139d544b821b13eb", FROM_VARBYTE("photo", 'hex'), "email", "we""ird; drop table x --", "select", "it's 100% naïve ☃" FROM "shop__base"."orders" WHERE "changed" IS NULL;

-- read the rows back
SELECT "id", "code", "small", "whole", "is_paid", "ratio", "rate", "amount", "huge", "day", "local", "changed", "_esclusa_json_139d544b821b13eb", FROM_VARBYTE("photo", 'hex'), "email", "we""ird; drop table x --", "select", "it's 100% naïve ☃" FROM "shop__base"."orders" WHERE "day" < CAST('2026-11-22 12:15:00.000000' AS TIMESTAMP) AND "day" >= CAST('2026-11-22 12:00:00.000000' AS TIMESTAMP);

-- read the rows back
SELECT "id", "code", "small", "whole", "is_paid", "ratio", "rate", "amount", "huge", "day", "local", "changed", "_esclusa_json_139d544b821b13eb", FROM_VARBYTE("photo", 'hex'), "email", "we""ird; drop table x --", "select", "it's 100% naïve ☃" FROM "shop__base"."orders" WHERE "id" < 9 AND "id" >= 2;

