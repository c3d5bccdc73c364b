"""
What has to be right around a Redshift before anything is loaded: rights, isolation, the bucket's region and its policy.

It changes nothing. A finding says what depends on it, and what to do.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.errors import StatementFailed
from services.publisher.redshift.plan import Statement

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: COPY of Parquet reads by URLs that are signed for an hour.
#: Source: Amazon Redshift Developer Guide, "COPY from columnar data formats".
SIGNATURE_AGE_MILLISECONDS = 3_600_000


class Verdict(StrEnum):
    """How a question ended."""

    #: As expected.
    HELD = "held"
    #: Not as expected.
    BROKEN = "broken"
    #: It could not be asked: a right is missing, or nothing was named to ask of.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One question and its answer."""

    #: The row in docs/redshift.md.
    rule: str
    what: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """What has to be known of a bucket."""

    name: str
    #: Where the database is.
    wanted_region: str
    #: Where the bucket is; None if we may not ask.
    region: str | None
    #: Its policy; None if we may not ask, empty if it has none.
    policy: Mapping[str, Any] | None


def look_at_bucket(client: "S3Client", name: str, *, region: str) -> Bucket:
    """Return what has to be known of a bucket, as far as we may ask."""
    found: str | None
    try:
        # The classic region has no name of its own here, and of old buckets in Ireland it is another one.
        # Source: Amazon S3 API Reference, GetBucketLocation, LocationConstraint.
        found = client.get_bucket_location(Bucket=name).get("LocationConstraint") or "us-east-1"
        found = "eu-west-1" if found == "EU" else found
    except ClientError:
        found = None
    policy: Mapping[str, Any] | None
    try:
        policy = json.loads(client.get_bucket_policy(Bucket=name)["Policy"])
    except ClientError as error:
        has_none = error.response.get("Error", {}).get("Code") == "NoSuchBucketPolicy"
        policy = {} if has_none else None
    return Bucket(name, region, found, policy)


def examine(api: DataApi, bucket: Bucket) -> Iterator[Finding]:
    """Return what is right and what is not around a database and a bucket."""
    yield _right(api, "15", "TEMP", "loads are staged in temporary tables")
    yield _right(api, "15", "CREATE", "the schemas of sources are made by the publisher")
    yield _isolation(api)
    yield _region(bucket)
    yield _signature_age(bucket)


def examine_lake(api: DataApi, schema: str) -> Finding:
    """Return whether the user may read an external schema: by USAGE, since external tables know no other grant."""
    what = f"USAGE on {schema}"
    sql = "SELECT HAS_SCHEMA_PRIVILEGE(CURRENT_USER, :schema, 'USAGE')"
    return _asked(
        api,
        Statement("doctor", sql, parameters={"schema": schema}, touches_rows=False),
        rule="15",
        what=what,
        wrong=f"GRANT USAGE ON SCHEMA {schema} to it",
    )


def _right(api: DataApi, rule: str, privilege: str, why: str) -> Finding:
    sql = f"SELECT HAS_DATABASE_PRIVILEGE(CURRENT_USER, CURRENT_DATABASE(), '{privilege}')"
    return _asked(
        api,
        Statement("doctor", sql, touches_rows=False),
        rule=rule,
        what=f"{privilege} on the database",
        wrong=f"GRANT {privilege} ON DATABASE to the publisher's user: {why}",
    )


def _asked(api: DataApi, statement: Statement, *, rule: str, what: str, wrong: str) -> Finding:
    try:
        is_so = api.rows(statement)[0][0]
    except StatementFailed as error:
        return Finding(rule, what, Verdict.UNKNOWN, str(error))
    return (
        Finding(rule, what, Verdict.HELD, "granted") if is_so else Finding(rule, what, Verdict.BROKEN, wrong)
    )


def _isolation(api: DataApi) -> Finding:
    # Source: Amazon Redshift Developer Guide, STV_DB_ISOLATION_LEVEL.
    sql = "SELECT isolation_level FROM stv_db_isolation_level WHERE db_name = CURRENT_DATABASE()"
    what = "isolation of the database"
    try:
        rows = api.rows(Statement("doctor", sql, touches_rows=False))
    except StatementFailed as error:
        return Finding("35", what, Verdict.UNKNOWN, str(error))
    level = str(rows[0][0]).strip() if rows else "not told"
    note = (
        ""
        if level.upper().startswith("SNAPSHOT")
        else ": overlapping loads of one source may be tried again (1023)"
    )
    return Finding("35", what, Verdict.HELD, level + note)


def _region(bucket: Bucket) -> Finding:
    what = f"region of {bucket.name}"
    if bucket.region is None:
        return Finding("17", what, Verdict.UNKNOWN, "s3:GetBucketLocation is not granted")
    if bucket.region != bucket.wanted_region:
        return Finding(
            "17",
            what,
            Verdict.BROKEN,
            f"the bucket is in {bucket.region}, the database in {bucket.wanted_region}: COPY of Parquet takes no REGION, so "
            "they have to be in one",
        )
    return Finding("17", what, Verdict.HELD, bucket.region)


def _signature_age(bucket: Bucket) -> Finding:
    what = f"s3:signatureAge in the policy of {bucket.name}"
    if bucket.policy is None:
        return Finding("18", what, Verdict.UNKNOWN, "s3:GetBucketPolicy is not granted")
    ages = sorted(_signature_ages(bucket.policy))
    if ages and ages[0] < SIGNATURE_AGE_MILLISECONDS:
        return Finding(
            "18",
            what,
            Verdict.BROKEN,
            f"{ages[0]} ms: COPY of Parquet reads by URLs of an hour, so at least {SIGNATURE_AGE_MILLISECONDS} are needed",
        )
    return Finding("18", what, Verdict.HELD, f"{ages[0]} ms" if ages else "not limited")


def _signature_ages(policy: Mapping[str, Any]) -> Iterator[int]:
    statements = policy.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        for condition in statement.get("Condition", {}).values():
            for key, values in condition.items():
                if key.lower() == "s3:signatureage":
                    yield from (int(value) for value in (values if isinstance(values, list) else [values]))
