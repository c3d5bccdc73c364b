-- create the base table
CREATE TABLE "shop__base"."orders" ("id" BIGINT ENCODE AZ64, "code" VARCHAR(16) ENCODE ZSTD, "small" SMALLINT ENCODE AZ64, "whole" INTEGER ENCODE AZ64, "is_paid" BOOLEAN ENCODE RAW, "ratio" REAL ENCODE RAW, "rate" DOUBLE PRECISION ENCODE RAW, "amount" DECIMAL(12,2) ENCODE AZ64, "huge" DECIMAL(38,10) ENCODE AZ64, "day" DATE ENCODE AZ64, "local" TIMESTAMP ENCODE AZ64, "changed" TIMESTAMPTZ ENCODE RAW, "doc" SUPER ENCODE ZSTD, "_esclusa_json_139d544b821b13eb" VARCHAR(64) ENCODE ZSTD, "photo" VARBYTE(64000) ENCODE ZSTD, "email" VARCHAR(64) ENCODE ZSTD, "we""ird; drop table x --" VARCHAR(64) ENCODE ZSTD, "select" VARCHAR(16) ENCODE ZSTD, "it's 100% naïve ☃" VARCHAR(64) ENCODE ZSTD, "_esclusa_batch_id" VARCHAR(64) ENCODE ZSTD, "_esclusa_window_end" TIMESTAMPTZ ENCODE AZ64) DISTSTYLE AUTO COMPOUND SORTKEY ("changed");

-- create the base table
CREATE TABLE "shop__base"."orders" ("id" BIGINT ENCODE AZ64, "code" VARCHAR(16) ENCODE ZSTD, "small" SMALLINT ENCODE AZ64, "whole" INTEGER ENCODE AZ64, "is_paid" BOOLEAN ENCODE RAW, "ratio" REAL ENCODE RAW, "rate" DOUBLE PRECISION ENCODE RAW, "amount" DECIMAL(12,2) ENCODE AZ64, "huge" DECIMAL(38,10) ENCODE AZ64, "day" DATE ENCODE RAW, "local" TIMESTAMP ENCODE AZ64, "changed" TIMESTAMPTZ ENCODE AZ64, "doc" SUPER ENCODE ZSTD, "_esclusa_json_139d544b821b13eb" VARCHAR(64) ENCODE ZSTD, "photo" VARBYTE(64000) ENCODE ZSTD, "email" VARCHAR(64) ENCODE ZSTD, "we""ird; drop table x --" VARCHAR(64) ENCODE ZSTD, "select" VARCHAR(16) ENCODE ZSTD, "it's 100% naïve ☃" VARCHAR(64) ENCODE ZSTD, "_esclusa_batch_id" VARCHAR(64) ENCODE ZSTD, "_esclusa_window_end" TIMESTAMPTZ ENCODE AZ64) DISTSTYLE KEY DISTKEY ("id") COMPOUND SORTKEY ("day", "id");

-- add a column
ALTER TABLE "shop__base"."orders" ADD COLUMN "code" VARCHAR(16) ENCODE ZSTD;

-- widen a column
ALTER TABLE "shop__base"."orders" ALTER COLUMN "code" TYPE VARCHAR(16);

-- comment
COMMENT ON TABLE "shop__base"."orders" IS 'base of shop.orders: the newest version of each row; masked: email (hmac of customer, key k1); contract 3';

-- comment
COMMENT ON COLUMN "shop__base"."orders"."changed" IS 'UTC';

-- comment
COMMENT ON COLUMN "shop__base"."orders"."doc" IS 'JSON as SUPER';

-- comment
COMMENT ON COLUMN "shop__base"."orders"."email" IS 'masked: hmac of customer, key k1';

