"""The processor on what PostgreSQL itself writes, and on a bucket that speaks HTTP."""

import math
import secrets
from dataclasses import replace
from datetime import UTC
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.aws_endpoint import use_aws_endpoint
from support.process_batches import EVERYTHING, Scene, column, rows_in, table

from services.extractor.dialects.postgresql import SESSION_SETTINGS, fate_of, select_expression
from services.processor.process import process
from shared.csv_dialect import header_line
from shared.domain.files import Area, Location
from shared.object_store.s3 import MIN_PART_SIZE_IN_BYTES, S3ObjectStore, make_s3_client
from shared.parquet_footer import check_footer, read_footer

#: Source type and values as literals. Every kind of ours is among the types.
EDGES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807", "0"],
    "real": ["'NaN'", "'-Infinity'", "1.1", "1e-45", "3.4028235e38", "'-0'"],
    "double precision": [
        "'NaN'",
        "'Infinity'",
        "0.1",
        "5e-324",
        "1.7976931348623157e308",
        "123456789.123456789",
    ],
    "numeric(38,10)": ["-9999999999999999999999999999.9999999999", "0.0000000001", "0"],
    "numeric(38,0)": ["99999999999999999999999999999999999999"],
    "text": [
        "''",
        "'NULL'",
        "' a '",
        "E'\\n'",
        "E'\\r'",
        "E'a\\r\\nb'",
        "'\"'",
        "','",
        "'\\.'",
        "'é漢🎉'",
        "E'\\uFEFFx'",
    ],
    "character(5)": ["'ab'"],
    "date": ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"],
    "timestamp": ["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'"],
    "timestamptz": ["'2026-03-29 02:30:00.000001+01'", "'0001-01-02 00:00:00+00'", "'9999-12-30 00:00:00Z'"],
    "json": ['\'{"a":  1.50, "b": "\\\\u00e9"}\'', "'[]'", "'null'"],
    "jsonb": ['\'{"b": 1, "a": ["x,\\"y\\""]}\''],
    "bytea": ["'\\x'", "'\\x00ff0a'"],
}
NOT_CARRIED: dict[str, list[str]] = {
    "numeric(12,2)": ["'NaN'"],
    "date": ["'infinity'", "'0044-03-15 BC'", "'20000-01-01'"],
    "timestamp": ["'-infinity'", "'0044-03-15 BC'", "'20000-01-01'"],
    "timestamptz": ["'infinity'", "'0044-03-15 BC'"],
}


def copied(dsn: str, source_type: str, literals: list[str]) -> tuple[bytes, list[Any]]:
    """Return the values of a column as COPY writes them, a number beside each, and as psycopg reads them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute(f"CREATE TABLE edge (n serial, v {source_type})")
        for literal in [*literals, "NULL"]:
            connection.execute(f"INSERT INTO edge (v) VALUES ({literal})")
        query = f"SELECT n, {select_expression('v', source_type)} FROM edge ORDER BY n"
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as copy:
                body = b"".join(bytes(block) for block in copy)
            # As text where psycopg would parse or cannot say it.
            shown = "v::text" if "json" in source_type else "v"
            values = [
                value for _, value in cursor.execute(f"SELECT n, {shown} FROM edge ORDER BY n", binary=True)
            ]
    return header_line(["n", "v"]) + body, values


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else (math.copysign(1, value), value)
    if getattr(value, "tzinfo", None) is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


@pytest.mark.parametrize("source_type", EDGES)
def test_every_type_comes_out_of_parquet_as_it_is_in_postgresql(fresh_database, source_type):
    body, values = copied(fresh_database, source_type, EDGES[source_type])
    spelled = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone"}
    output_type = fate_of(spelled.get(source_type, source_type)).type
    scene = Scene(table(column("n", "int32"), column("v", str(output_type))))
    scene.add_file(body, record_count=len(values))

    result = scene.process()

    assert [plain(value) for _, value in scene.rows_of(result)] == [plain(value) for value in values]


@pytest.mark.parametrize("source_type", NOT_CARRIED)
def test_what_no_parquet_type_holds_is_rejected_and_never_changed(fresh_database, source_type):
    literals = NOT_CARRIED[source_type]
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute(f"CREATE TABLE edge (v {source_type})")
        for literal in literals:
            connection.execute(f"INSERT INTO edge VALUES ({literal})")
        with connection.cursor().copy("COPY edge TO STDOUT (FORMAT csv)") as copy:
            body = b"".join(bytes(block) for block in copy)
    kind = source_type.replace("numeric", "decimal")
    scene = Scene(table(column("v", kind), limits=EVERYTHING))
    scene.add_file(header_line(["v"]) + body, record_count=len(literals))

    result = scene.process()

    assert scene.rows_of(result) == []
    assert len(scene.rejects_of(result.files)) == len(literals)


def test_a_batch_is_processed_from_bucket_to_bucket(ministack, monkeypatch):
    region = use_aws_endpoint(ministack, monkeypatch)
    client, bucket = make_s3_client(region), f"acme-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
    store = S3ObjectStore(client)
    scene = Scene(table(column("id", "int64"), column("noise", "binary"), key=["id"]))
    # More than one part of a multipart upload, and a footer that is read from its tail.
    noise = [secrets.token_hex(8192) for _ in range(2 * MIN_PART_SIZE_IN_BYTES // 8192)]
    scene.add_rows(*[[str(number), f"\\x{text}"] for number, text in enumerate(noise)])
    for file in scene.files:
        body = scene.store.read(file.location)
        store.put(Location(bucket, file.location.key), body, sha256=file.sha256, metadata={})
    assignment = replace(
        scene.assignment,
        batch=replace(scene.batch, bucket=bucket),
        files=tuple(replace(file, location=Location(bucket, file.location.key)) for file in scene.files),
    )

    result = process(assignment, store=store)

    (final,) = result.files
    assert final.area is Area.FINAL
    assert final.file_size_in_bytes > MIN_PART_SIZE_IN_BYTES
    footer = read_footer(store, final.location, file_size_in_bytes=final.file_size_in_bytes)
    check_footer(
        footer,
        location=final.location,
        contract=scene.contract,
        batch=assignment.batch,
        record_count=len(noise),
    )
    assert store.sha256(final.location) == final.sha256
    assert rows_in(store.read(final.location)) == [
        (number, bytes.fromhex(text)) for number, text in enumerate(noise)
    ]
