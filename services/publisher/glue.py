"""The lake catalog in AWS Glue: what Athena, Redshift Spectrum and DuckDB look up."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from services.publisher.catalog import (
    BATCH_KEY,
    DAY_KEY,
    MAX_PARTITIONS_PER_REQUEST,
    ExternalBatch,
    ExternalColumn,
    ExternalTable,
    database_name,
    empty_folder,
    refuse_changed_types,
    widened_columns,
)
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, LostLease, Refused, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient
    from mypy_boto3_glue.type_defs import (
        ColumnTypeDef,
        ErrorDetailTypeDef,
        PartitionInputTypeDef,
        StorageDescriptorTypeDef,
        TableInputTypeDef,
        TableTypeDef,
    )

log = structlog.get_logger()

# Of two writers of one table, Glue lets one through; the other looks again.
MAX_TRIES = 8

#: What the rows of a table may differ from those it tells, as a part of them.
MAX_COUNT_ERROR = 0.1

_TABLE, _CONTRACT = "esclusa.table", "esclusa.contract_version"
_BATCH, _WINDOW_END, _ATTEMPT = "esclusa.batch_id", "esclusa.window_end", "esclusa.publish_attempt"
_MOVED_BY = "esclusa.moved_by"


def make_glue_client(region: str) -> "GlueClient":
    """Return a client that gives up after a bounded time. The endpoint comes from the environment."""
    config = Config(
        region_name=region,
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    return boto3.client("glue", config=config)


class GlueCatalog:
    """External tables in Glue; see `LakeCatalog`. The database of a source is the prefix and its name."""

    def __init__(self, client: "GlueClient", *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def put_partition(self, table: ExternalTable, batch: ExternalBatch) -> None:
        """Show a batch as a partition of its own; see `LakeCatalog`."""
        self.put_partitions(table, [batch])

    def put_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """Show many batches, a hundred in one request; see `LakeCatalog`."""
        with _translated(self._where(table)):
            self._bring_table_to_contract(table)
            for some in _in_requests(batches):
                for batch in self._create_partitions(table, some):
                    self._bring_partition_to(table, batch)

    def switch_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        """Lead partitions to other folders in one request; see `LakeCatalog`."""
        if len(batches) > MAX_PARTITIONS_PER_REQUEST:
            raise ValueError(f"expected at most {MAX_PARTITIONS_PER_REQUEST} partitions, got {len(batches)}")
        with _translated(self._where(table)):
            self._bring_table_to_contract(table, moves=True)
            empty = [replace(batch, folder=empty_folder(table), record_count=0) for batch in batches]
            self._create_partitions(table, empty)
            self._update_partitions(table, batches)

    def change_types(self, table: ExternalTable) -> None:
        """Bring columns to wider types by one update of the table; see `LakeCatalog`."""
        with _translated(self._where(table)):
            for _ in range(MAX_TRIES):
                found = self._find_table(table)
                if found is None:
                    return
                there = _found_columns(found)
                wanted = replace(
                    table,
                    columns=widened_columns(there, table, is_masked_since=_is_newer(found, table)),
                    contract_version=_contract_version(found),
                    record_count=_told_count(found),
                )
                if wanted.columns == there:
                    return
                if self._try_write(_table_input(wanted), table=table, found=found):
                    log.warning("external_columns_widened", table=table.name)
                    return
        raise Unavailable(f"{self._where(table)}: it changed {MAX_TRIES} times meanwhile")

    def put_snapshot(self, table: ExternalTable, batch: ExternalBatch, *, goes_back: bool = False) -> bool:
        """Make a batch the whole of a table by one update of its location; see `LakeCatalog`."""
        with _translated(self._where(table)):
            for _ in range(MAX_TRIES):
                found = self._find_table(table)
                if found is not None and _is_older(batch, found) and not goes_back:
                    return False
                if found is not None and _shows(found, table, batch):
                    return True
                if self._try_write(_snapshot_input(table, batch), table=table, found=found):
                    return True
        raise Unavailable(f"{self._where(table)}: it changed {MAX_TRIES} times meanwhile")

    def _bring_table_to_contract(self, table: ExternalTable, *, moves: bool = False) -> None:
        """
        Create the table, or bring its columns to the contract unless a newer one made them.

        `moves`: no partition comes, some that are there are led elsewhere.
        """
        for _ in range(MAX_TRIES):
            found = self._find_table(table)
            if found is not None:
                is_masked_since = moves and _is_newer(found, table)
                refuse_changed_types(_found_columns(found), table, is_masked_since=is_masked_since)
                if _is_up_to_date(found, table):
                    return
            if self._try_write(_table_input(table), table=table, found=found):
                return
        raise Unavailable(f"{self._where(table)}: it changed {MAX_TRIES} times meanwhile")

    def _find_table(self, table: ExternalTable) -> "TableTypeDef | None":
        try:
            found = self._client.get_table(DatabaseName=self._database(table), Name=table.name)["Table"]
        except self._client.exceptions.EntityNotFoundException:
            return None
        _refuse_other_table(found, table)
        return found

    def _try_write(
        self, wanted: "TableInputTypeDef", *, table: ExternalTable, found: "TableTypeDef | None"
    ) -> bool:
        """Create or update a table; False if somebody else did so since it was looked up."""
        database = self._database(table)
        try:
            if found is None:
                self._create_database(database)
                self._client.create_table(DatabaseName=database, TableInput=wanted)
            elif version := found.get("VersionId"):
                # Glue then refuses the update if the table has another version meanwhile.
                self._client.update_table(
                    DatabaseName=database, TableInput=wanted, SkipArchive=True, VersionId=version
                )
            else:
                self._client.update_table(DatabaseName=database, TableInput=wanted, SkipArchive=True)
        except (
            self._client.exceptions.AlreadyExistsException,
            self._client.exceptions.ConcurrentModificationException,
            self._client.exceptions.EntityNotFoundException,
        ):
            return False
        return True

    def _create_database(self, database: str) -> None:
        try:
            self._client.create_database(DatabaseInput={"Name": database})
        except self._client.exceptions.AlreadyExistsException:
            return
        log.info("external_database_created", database=database)

    def _create_partitions(
        self, table: ExternalTable, batches: Sequence[ExternalBatch]
    ) -> list[ExternalBatch]:
        """Create partitions and return the batches that have one already."""
        answer = self._client.batch_create_partition(
            DatabaseName=self._database(table),
            TableName=table.name,
            PartitionInputList=[_partition_input(table, batch) for batch in batches],
        )
        there = set()
        for error in answer.get("Errors", []):
            detail = error.get("ErrorDetail", {})
            if detail.get("ErrorCode") != "AlreadyExistsException":
                raise Unavailable(_say(detail, table))
            there.add(tuple(error.get("PartitionValues", [])))
        return [batch for batch in batches if tuple(_values(batch)) in there]

    def _update_partitions(self, table: ExternalTable, batches: Sequence[ExternalBatch]) -> None:
        # Also of one: the embedded AWS server has no UpdatePartition.
        answer = self._client.batch_update_partition(
            DatabaseName=self._database(table),
            TableName=table.name,
            Entries=[
                {"PartitionValueList": _values(batch), "PartitionInput": _partition_input(table, batch)}
                for batch in batches
            ],
        )
        for error in answer.get("Errors", []):
            raise Unavailable(_say(error.get("ErrorDetail", {}), table))

    def _bring_partition_to(self, table: ExternalTable, batch: ExternalBatch) -> None:
        """Lead a partition that is there to the files of this attempt."""
        found = self._client.get_partition(
            DatabaseName=self._database(table), TableName=table.name, PartitionValues=_values(batch)
        )["Partition"]
        parameters = found.get("Parameters", {})
        if parameters.get(_MOVED_BY):
            return  # A published batch is final; whoever led it elsewhere knows more.
        if int(parameters.get(_ATTEMPT, "0")) > batch.attempt:
            raise LostLease(
                f"batch {batch.batch_id}: attempt {parameters[_ATTEMPT]} of publish has put its partition, "
                f"this is attempt {batch.attempt}"
            )
        wanted = _partition_input(table, batch)
        has_location = found.get("StorageDescriptor", {}).get("Location") == str(batch.folder)
        if has_location and _holds(parameters, wanted.get("Parameters", {})):
            return
        self._update_partitions(table, [batch])

    def _where(self, table: ExternalTable) -> str:
        return f"Glue table {self._database(table)}.{table.name}"

    def _database(self, table: ExternalTable) -> str:
        return database_name(table.source, prefix=self._prefix)


# ---- what is found, compared with what is wanted -------------------------------------------------------------


def _refuse_other_table(found: "TableTypeDef", table: ExternalTable) -> None:
    owner = found.get("Parameters", {}).get(_TABLE)
    if owner != table.table:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{table.source}.{table.table}: its external table {table.name} belongs to {owner or 'somebody else'!r}; "
            "give one of them another name",
        )
    if bool(found.get("PartitionKeys")) != table.is_partitioned:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{table.source}.{table.table}: its external table {table.name} was made for another publish mode, and Glue "
            "does not change partition keys; drop it in Glue, then replay the batches",
        )


def _found_columns(found: "TableTypeDef") -> tuple[ExternalColumn, ...]:
    columns = found.get("StorageDescriptor", {}).get("Columns", [])
    return tuple(
        ExternalColumn(column["Name"], column.get("Type", ""), column.get("Comment", ""))
        for column in columns
    )


def _contract_version(found: "TableTypeDef") -> int:
    return int(found.get("Parameters", {}).get(_CONTRACT, "0"))


def _told_count(found: "TableTypeDef") -> int | None:
    told = found.get("Parameters", {}).get("numRows")
    return None if told is None else int(told)


def _is_newer(found: "TableTypeDef", table: ExternalTable) -> bool:
    return _contract_version(found) > table.contract_version


def _is_up_to_date(found: "TableTypeDef", table: ExternalTable) -> bool:
    return _is_newer(found, table) or (
        _contract_version(found) == table.contract_version
        and found.get("StorageDescriptor", {}).get("Columns") == _columns(table)
        and _has_count(found, table)
    )


def _has_count(found: "TableTypeDef", table: ExternalTable) -> bool:
    """Whether a table tells about as many rows as it has: a planner needs no more, and each update makes others wait."""
    if table.record_count is None:
        return True
    told = _told_count(found)
    return told is not None and abs(told - table.record_count) <= table.record_count * MAX_COUNT_ERROR


def _is_older(batch: ExternalBatch, found: "TableTypeDef") -> bool:
    shown = found.get("Parameters", {}).get(_WINDOW_END)
    return shown is not None and batch.window_end < datetime.fromisoformat(shown)


def _shows(found: "TableTypeDef", table: ExternalTable, batch: ExternalBatch) -> bool:
    """Whether a table is this snapshot already."""
    parameters = found.get("Parameters", {})
    if parameters.get(_BATCH) == batch.batch_id and int(parameters.get(_ATTEMPT, "0")) > batch.attempt:
        raise LostLease(
            f"batch {batch.batch_id}: attempt {parameters[_ATTEMPT]} of publish has put it, this is {batch.attempt}"
        )
    descriptor = found.get("StorageDescriptor", {})
    wanted = _snapshot_input(table, batch)
    return (
        descriptor.get("Location") == str(batch.folder)
        and descriptor.get("Columns") == _columns(table)
        and _holds(parameters, wanted.get("Parameters", {}))
    )


def _holds(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(found.get(name) == value for name, value in wanted.items())


def _say(detail: "ErrorDetailTypeDef", table: ExternalTable) -> str:
    return f"Glue, partitions of {table.source}.{table.name}: {detail.get('ErrorCode')}: {detail.get('ErrorMessage')}"


# ---- what is written ---------------------------------------------------------------------------------------


def _table_input(table: ExternalTable) -> "TableInputTypeDef":
    """Return a table of partitions. Its own location is where people look; no reader reads it."""
    return {
        "Name": table.name,
        "Description": f"{table.source}.{table.table}: every committed batch, all versions of a row",
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [
            {"Name": DAY_KEY, "Type": "string", "Comment": "day of the batch's window"},
            {"Name": BATCH_KEY, "Type": "string", "Comment": "id of the batch"},
        ],
        "Parameters": _table_parameters(table) | _counted(table),
        "StorageDescriptor": _descriptor(table, table.folder),
    }


def _snapshot_input(table: ExternalTable, batch: ExternalBatch) -> "TableInputTypeDef":
    """Return a table that is one batch."""
    return {
        "Name": table.name,
        "Description": f"{table.source}.{table.table}: the newest snapshot",
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [],
        "Parameters": {**_table_parameters(table), **_batch_parameters(batch)},
        "StorageDescriptor": _descriptor(table, batch.folder),
    }


def _partition_input(table: ExternalTable, batch: ExternalBatch) -> "PartitionInputTypeDef":
    return {
        "Values": _values(batch),
        "Parameters": _batch_parameters(batch),
        "StorageDescriptor": _descriptor(table, batch.folder),
    }


def _values(batch: ExternalBatch) -> list[str]:
    return [batch.day, batch.batch_id]


def _table_parameters(table: ExternalTable) -> dict[str, str]:
    return {
        "EXTERNAL": "TRUE",
        "classification": "parquet",
        _TABLE: table.table,
        _CONTRACT: str(table.contract_version),
    }


def _counted(table: ExternalTable) -> dict[str, str]:
    return {} if table.record_count is None else {"numRows": str(table.record_count)}


def _batch_parameters(batch: ExternalBatch) -> dict[str, str]:
    return {
        # Redshift plans by it: without it an external table counts as the bigger side of any join.
        # Source: Amazon Redshift Developer Guide, CREATE EXTERNAL TABLE, table properties.
        "numRows": str(batch.record_count),
        _BATCH: batch.batch_id,
        _WINDOW_END: batch.window_end.isoformat(),
        _ATTEMPT: str(batch.attempt),
        **({_MOVED_BY: batch.moved_by} if batch.moved_by else {}),
    }


def _columns(table: ExternalTable) -> "list[ColumnTypeDef]":
    return [{"Name": column.name, "Type": column.type, "Comment": column.comment} for column in table.columns]


def _descriptor(table: ExternalTable, folder: Location) -> "StorageDescriptorTypeDef":
    # Source: Apache Hive, StorageFormat PARQUET.
    return {
        "Columns": _columns(table),
        "Location": str(folder),
        "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
        "SerdeInfo": {
            "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
            "Parameters": {"serialization.format": "1"},
        },
    }


def _in_requests(batches: Sequence[ExternalBatch]) -> list[Sequence[ExternalBatch]]:
    size = MAX_PARTITIONS_PER_REQUEST
    return [batches[start : start + size] for start in range(0, len(batches), size)]


# ---- errors ------------------------------------------------------------------------------------------------


@contextmanager
def _translated(where: str) -> Generator[None]:
    """Say errors of Glue in our own words; the cause stays."""
    try:
        yield
    except ParamValidationError:
        raise  # A defect of ours, not of Glue.
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "AccessDeniedException":
            raise ConfigurationError(f"{where}: {error}; the publisher's role needs it") from error
        if code in {"InvalidInputException", "ValidationException"}:
            raise Refused(Reason.TARGET_INCOMPATIBLE, f"{where}: {error}") from error
        raise Unavailable(f"{where}: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"{where}: {error}") from error
