-- lock the table's turn
LOCK TABLE "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- see whose turn it is
SELECT CAST(CASE WHEN COALESCE(MAX("turn"), 0) <> 8 THEN 'esclusa turn ' || CAST(COALESCE(MAX("turn"), 0) AS VARCHAR(20)) ELSE '0' END AS INTEGER) AS "held" FROM "shop__base"."_esclusa_turn_1c168adb00d208e4";

-- show the view
DROP VIEW IF EXISTS "shop"."orders";

-- show the view
CREATE VIEW "shop"."orders" AS SELECT "id", "code", "small", "whole", "is_paid", "ratio", "rate", "amount", "huge", "day", "local", "changed", "doc", "photo", "email", "we""ird; drop table x --", "select", "it's 100% naïve ☃" FROM "shop__base"."orders" WITH NO SCHEMA BINDING;

-- show the view
COMMENT ON VIEW "shop"."orders" IS 'shop.orders: the newest version of each row; masked: email (hmac of customer, key k1); contract 3';

-- show the view
GRANT SELECT ON "shop"."orders" TO GROUP "analysts";

-- show the view
GRANT SELECT ON "shop"."orders" TO PUBLIC;

-- show the view
GRANT SELECT ON "shop"."orders" TO ROLE "readers";

-- show the view
GRANT SELECT ON "shop"."orders" TO "IAM:Anna";

-- show the view
GRANT SELECT ON "shop"."orders" TO "bert" WITH GRANT OPTION;

