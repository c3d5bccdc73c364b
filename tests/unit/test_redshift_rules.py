"""What our own rules of Redshift's SQL find: each of them, by a statement that breaks it."""

import pytest

from services.publisher.redshift.plan import Statement
from services.publisher.redshift.rules import MAX_SQL_BYTES, breaches, refuse_broken_rules
from shared.domain.reasons import Reason
from shared.errors import Refused

COPY = (
    """COPY "s" ("id") FROM 's3://b/k.manifest' IAM_ROLE 'arn:aws:iam::1:role/r' FORMAT AS PARQUET MANIFEST"""
)
LOCK = 'LOCK TABLE "t"'
INSERT = 'INSERT INTO "t" ("id") SELECT 1'


def rules_broken_by(*sqls: str, **parameters: str) -> set[str]:
    found = breaches([Statement("it", sql, parameters=parameters) for sql in sqls])
    return {breach.rule for breach in found}


@pytest.mark.parametrize(
    ("rule", "sql"),
    [
        ("2", "BEGIN"),
        ("2", "COMMIT"),
        ("14", 'CREATE VIEW "v" AS SELECT "a" FROM "s"."t"'),
        ("16", COPY.replace('("id") ', "")),
        ("17", COPY + " MAXERROR 10"),
        ("17", COPY + " REGION 'eu-west-1'"),
        ("17", COPY.replace("IAM_ROLE 'arn:aws:iam::1:role/r'", "CREDENTIALS 'aws_access_key_id=A'")),
        ("17", COPY + " COMPUPDATE ON"),
        ("17", 'CREATE TABLE "t" ("a" BIGINT)'),
        ("19", "UNLOAD ('SELECT 1') TO 's3://b/k'"),
        ("21", COPY.replace("k.manifest", "final/orders/")),
        ("21", COPY.replace(" MANIFEST", "")),
        ("23", 'MERGE INTO "t" USING "s" ON "t"."id" = "s"."id"'),
        ("25", 'DELETE FROM "t" USING "s" WHERE "t"."id" = "s"."id" OR "t"."x" = "s"."x"'),
        ("25", 'SELECT 1 FROM "t" WHERE "a" IS DISTINCT FROM "b"'),
        ("25", INSERT + ' ON CONFLICT ("id") DO NOTHING'),
        ("26", 'TRUNCATE TABLE "t"'),
        ("26", 'ALTER TABLE "t" APPEND FROM "s"'),
        ("27", 'CREATE TABLE "t" ("a" VARCHAR(16) ENCODE TEXT255)'),
        ("27", 'CREATE TABLE "t" ("a" BIGINT ENCODE RAW, PRIMARY KEY ("a"))'),
        ("29", 'CREATE TABLE "t" ("a" TEXT ENCODE ZSTD)'),
        ("29", 'CREATE TABLE "t" ("a" VARCHAR ENCODE ZSTD)'),
        ("29", 'CREATE TABLE "t" ("a" VARCHAR(70000) ENCODE ZSTD)'),
        ("29", 'CREATE TABLE "t" ("a" VARBYTE ENCODE ZSTD)'),
        ("30", COPY + " EMPTYASNULL"),
        ("30", COPY.replace("PARQUET", "CSV")),
        ("33", f'SELECT 1 AS "{"é" * 64}"'),
        ("33", 'SELECT 1 AS "Name"'),
        ("34", "SELECT '" + "x" * MAX_SQL_BYTES + "'"),
        ("34", "SELECT :a"),
        ("39", "SELECT 'a\\'"),
        ("39", "SELECT 1; DROP TABLE x"),
        ("39", "SELECT 1 -- and more"),
        ("39", "SELECT 'open"),
        ("-", ""),
    ],
    ids=lambda value: value if len(value) < 3 else value[:40],
)
def test_what_breaks_a_rule_is_found(rule, sql):
    assert rule in rules_broken_by(sql)


@pytest.mark.parametrize(
    ("rule", "sqls"),
    [
        (
            "1",
            [LOCK, "CREATE EXTERNAL SCHEMA IF NOT EXISTS \"l\" FROM DATA CATALOG DATABASE 'd' IAM_ROLE 'r'"],
        ),
        ("27", [LOCK, 'ALTER TABLE "t" ALTER COLUMN "a" TYPE VARCHAR(32)']),
        ("35", [INSERT, 'SELECT 1 FROM "t"']),
        ("35", [INSERT, LOCK]),
        ("34", [LOCK, *[INSERT] * 40]),
    ],
)
def test_what_breaks_a_rule_of_transactions_is_found(rule, sqls):
    assert rule in rules_broken_by(*sqls)


def test_parameters_are_named_and_neither_empty_nor_beside_quoted_colons():
    assert rules_broken_by("SELECT :a", a="x") == set()
    assert rules_broken_by("SELECT :a", a="") == {"34"}
    assert rules_broken_by("SELECT :a, ':b'", a="x") == {"34"}
    assert rules_broken_by("SELECT 1", a="x") == {"34"}


@pytest.mark.parametrize(
    "sqls",
    [
        [COPY],
        [LOCK, COPY, INSERT],
        ["SELECT 'DROP TABLE x; -- TRUNCATE' AS \"truncate\""],
        ['CREATE TEMPORARY TABLE "t" ("a" VARBYTE, "b" VARCHAR(16))'],
        ['CREATE TABLE "t" (LIKE "u")'],
        ['GRANT SELECT ON "v" TO "IAM:Anna"'],
        ['CREATE VIEW "v" AS SELECT "a" FROM "s"."t" WITH NO SCHEMA BINDING'],
    ],
)
def test_what_is_right_breaks_none(sqls):
    assert rules_broken_by(*sqls) == set()


def test_a_role_that_is_granted_something_may_have_capital_letters():
    role = 'ROLE "AzureAD:Analysts"'

    assert rules_broken_by(f'GRANT USAGE ON SCHEMA "shop" TO {role}') == set()
    assert (
        rules_broken_by(f'ALTER DEFAULT PRIVILEGES IN SCHEMA "shop" GRANT SELECT ON TABLES TO {role}')
        == set()
    )


def test_too_many_columns_are_refused_and_defects_of_ours_are_raised():
    with pytest.raises(Refused) as refusal:
        refuse_broken_rules([Statement("wide", "SELECT '" + "x" * MAX_SQL_BYTES + "'")])
    with pytest.raises(ValueError, match="rule 26"):
        refuse_broken_rules([Statement("it", 'TRUNCATE TABLE "t"')])

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "x" * 99 not in refusal.value.detail
