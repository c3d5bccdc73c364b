"""The files of a batch before Redshift fetches them: checked against the ledger, measured, and listed."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from services.publisher.rows import read_blocks
from services.publisher.warehouse import NativeLoad, target_of
from shared.domain.files import DataFile, Location, copy_key
from shared.domain.reasons import Reason
from shared.errors import ObjectNotFound, Refused
from shared.measures import MEASURES_KEY, ColumnMeasure, from_text, taken_together, to_text
from shared.measuring import measure
from shared.parquet_footer import check_columns, expected_columns, read_footer
from shared.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a warehouse is to fetch, and what the columns of it measure."""

    files: tuple[DataFile, ...]
    measures: tuple[ColumnMeasure, ...]


def prepare_fetch(load: NativeLoad, *, store: ObjectStore) -> Fetch:
    """
    Return what is to be fetched, after each file was found to be the one that its gate let pass.

    Of a file that holds the rows of other batches too, those of this one are cut out: COPY takes whole files.

    Raises:
        Refused: if a file is gone or changed, is not of the contract, or has other rows than the ledger counts;
            NULL_KEY if a merge could not find rows again.
    """
    together = [ColumnMeasure()] * len(load.contract.output_columns)
    record_count = 0
    files = tuple(
        file if file.first_row is None else _cut_out(file, number, load, store=store)
        for number, file in enumerate(load.files)
        # Of a batch without rows there is nothing in a file of others.
        if file.first_row is None or file.record_count
    )
    for file in files:
        _refuse_changed(file, store=store)
        footer = read_footer(store, file.location, file_size_in_bytes=file.file_size_in_bytes)
        check_columns(footer.columns, expected_columns(load.contract), file.location)
        together = taken_together(together, _measures(file, footer.metadata.get(MEASURES_KEY), len(together)))
        record_count += footer.record_count
    if record_count != load.record_count:
        raise Refused(
            Reason.PROOF_FAILED,
            f"{target_of(load)}: staged rows: expected {load.record_count}, found {record_count}",
        )
    _refuse_null_keys(load, together)
    return Fetch(files, tuple(together))


def _cut_out(file: DataFile, number: int, load: NativeLoad, *, store: ObjectStore) -> DataFile:
    """Write the rows of a batch that lie among those of others into a file of their own."""
    columns = load.contract.output_columns
    blocks = [
        block.to_arrow(compat_level=pl.CompatLevel.oldest())
        for block in read_blocks(file, columns=columns, store=store)
    ]
    rows = pa.concat_tables(blocks) if blocks else pa.table({})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({MEASURES_KEY: to_text(measure(rows))})
    body = sink.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    location = _for_copy(load, f"rows-{number:05d}-{sha256[:16]}.parquet")
    store.put(location, body, sha256=sha256, metadata={})
    return replace(
        file,
        location=location,
        record_count=rows.num_rows,
        file_size_in_bytes=len(body),
        sha256=sha256,
        first_row=None,
    )


def _for_copy(load: NativeLoad, name: str) -> Location:
    # The name tells the content: a table that is made anew is loaded by the same attempt, maybe of other files.
    key = copy_key(name, table=load.contract.table, batch_id=load.batch_id, attempt=load.attempt)
    return Location(load.files[0].location.bucket, key)


def _refuse_changed(file: DataFile, *, store: ObjectStore) -> None:
    try:
        found = store.sha256(file.location)
    except ObjectNotFound as error:
        raise Refused(
            Reason.OBJECT_MISSING, f"{file.location}: the ledger lists it, the bucket does not hold it"
        ) from error
    if found != file.sha256:
        raise Refused(
            Reason.CHECKSUM_MISMATCH,
            f"{file.location}: expected SHA-256 {file.sha256}, found {found}; it was changed after its gate had checked it",
        )


def _measures(file: DataFile, text: str | None, column_count: int) -> list[ColumnMeasure]:
    if text is None:
        raise Refused(
            Reason.FOOTER_MISMATCH,
            f"{file.location}: expected {MEASURES_KEY} in its footer, found none: a processor of an earlier version wrote "
            "it; replay the batch from the source",
        )
    try:
        measures = from_text(text)
    except ValueError as error:
        raise Refused(Reason.FOOTER_MISMATCH, f"{file.location}: {MEASURES_KEY}: {error}") from error
    if len(measures) != column_count:
        raise Refused(
            Reason.FOOTER_MISMATCH,
            f"{file.location}: {MEASURES_KEY}: expected {column_count} columns, found {len(measures)}",
        )
    return measures


def _refuse_null_keys(load: NativeLoad, measures: list[ColumnMeasure]) -> None:
    names = [column.name for column in load.contract.output_columns]
    counts = {name: measures[names.index(name)].null_count for name in load.contract.key if name in names}
    if any(counts.values()):
        raise Refused(
            Reason.NULL_KEY,
            f"{target_of(load)}: {max(counts.values())} rows of batch {load.batch_id} have NULL in the key "
            f"{', '.join(load.contract.key)}",
        )


def put_manifest(load: NativeLoad, fetch: Fetch, *, store: ObjectStore) -> Location:
    """
    Write the list of exactly the files that the ledger has committed, once, and return where it lies.

    Each is mandatory: by default COPY passes over files that are missing. Of Parquet it wants their lengths.
    Source: Amazon Redshift Developer Guide, "Using a manifest to specify data files".
    """
    body = _manifest(fetch.files)
    location = manifest_location(load, fetch.files)
    store.put(location, body, sha256=hashlib.sha256(body).hexdigest(), metadata={})
    return location


def manifest_location(load: NativeLoad, files: Sequence[DataFile]) -> Location:
    """Return where the list of a load's files lies, once it is written."""
    return _for_copy(load, f"files-00000-{hashlib.sha256(_manifest(files)).hexdigest()[:16]}.manifest")


def _manifest(files: Sequence[DataFile]) -> bytes:
    entries = [
        {
            "url": str(file.location),
            "mandatory": True,
            "meta": {"content_length": file.file_size_in_bytes},
        }
        for file in files
    ]
    return json.dumps({"entries": entries}, separators=(",", ":")).encode()
