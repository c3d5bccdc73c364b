"""The sides of a comparison: how the rows of each are read, all into one form."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

import polars as pl

from reconciliation.positions import Bounds
from reconciliation.settled import OPEN, Timeline
from reconciliation.shape import Shape
from services.extractor.masking import prepare_masking
from services.extractor.readers import ReadLimits, SourceReader, open_reader
from services.processor.conform import conform, typed_column
from services.processor.decode import TextBlock, parse_records, position_name
from services.publisher.rows import read_blocks
from services.publisher.warehouse import Warehouse
from shared.domain.contracts import TableContract
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.domain.windows import Window
from shared.errors import Refused, Unavailable
from shared.ports import ObjectStore, SecretStore


class Side(StrEnum):
    """Where rows are. Each gets them from the one before."""

    #: The table as it is now, with masks applied.
    SOURCE = "source"
    #: What a batch read and accepted, by the ledger and the manifests.
    CSV = "csv"
    #: The committed Parquet files in `final/`.
    LAKE = "lake"
    #: The analysts' view.
    WAREHOUSE = "warehouse"


#: Rows dated further ahead than this are taken for none.
_FUTURE = timedelta(days=366)

#: A batch may take ten minutes of a source; a comparison reads many windows at once.
READ_LIMITS = ReadLimits(read_timeout_seconds=3600)

#: Refusals that tell nothing of the rows, only that they cannot be had so.
_NO_ANSWER = frozenset({Reason.SOURCE_ANSWER_INVALID, Reason.SOURCE_LIMIT_EXCEEDED, Reason.MASK_KEY_MISSING})

#: So often the newest rows are read, if those that change meanwhile keep the source's answers from adding up.
_READINGS_OF_NEWEST = 5


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The source's side."""

    contract: TableContract
    shape: Shape
    secrets: SecretStore
    #: From the first window that is compared to the last; None for a table without a cursor, which is read whole.
    bounds: Bounds | None

    def read(self, timeline: Timeline | None) -> Iterator[pl.DataFrame]:
        """
        Return the rows of the bounds and then all newer ones, reduced, as the extractor and the processor make them.

        In this order, and each from one snapshot: a row that changes meanwhile is among the newer ones, or in both.
        Rows that the processor rejects are left out, but their keys are told: as rows of the window `OPEN`.

        Raises:
            Refused: if the table is not as the contract has it.
            Unavailable: if the source does not answer, or not so much at once; or if the mask key cannot be had.
        """
        contract = self.contract
        if contract.cursor is not None:
            cursor = replace(contract.cursor, overlap=timedelta(0), overlap_count=0)
            contract = replace(contract, cursor=cursor)
        try:
            with open_reader(contract, secrets=self.secrets, limits=READ_LIMITS) as reader:
                yield from self._part(reader, self.bounds or Bounds(), timeline)
                if self.bounds is not None:
                    yield from self._newer_rows(reader, self.bounds, timeline)
        except Refused as refusal:
            if refusal.reason not in _NO_ANSWER:
                raise
            raise Unavailable(
                f"{refusal}; perhaps fewer windows can be compared at once, with --from"
            ) from refusal

    def _newer_rows(
        self, reader: SourceReader, bounds: Bounds, timeline: Timeline | None
    ) -> Iterator[pl.DataFrame]:
        for reading in range(_READINGS_OF_NEWEST):
            try:
                # Read twice, they do no harm: nothing is asked of them but their keys.
                yield from self._part(reader, bounds.newer(until=reader.clock() + _FUTURE), timeline)
            except Refused as refusal:
                if refusal.reason is not Reason.SOURCE_ANSWER_INVALID or reading == _READINGS_OF_NEWEST - 1:
                    raise
            else:
                return

    def _part(
        self, reader: SourceReader, bounds: Bounds, timeline: Timeline | None
    ) -> Iterator[pl.DataFrame]:
        masking = prepare_masking(self.contract, secrets=self.secrets)
        first_line = 0
        # Without bounds, and of a cursor that counts, the moment says nothing of the rows.
        window = bounds.window or Window(None, reader.clock())
        with (
            reader.open_snapshot(window, extent=bounds.extent) as snapshot,
            closing(snapshot.read()) as chunks,
        ):
            for chunk in chunks:
                body = bytes(masking.mask(chunk).chunk.body)
                yield from self._reduced(body, first_line=first_line, timeline=timeline)
                first_line += chunk.record_count

    def _reduced(self, body: bytes, *, first_line: int, timeline: Timeline | None) -> Iterator[pl.DataFrame]:
        columns = self.contract.output_columns
        place = f"source {self.contract.source!r}, table {self.contract.table!r}"
        text = parse_records(body, column_count=len(columns), place=place)
        block = TextBlock(text, part=0, first_line=first_line, text_size_in_bytes=len(body))
        conformed = conform(block, contract=self.contract)
        order = pl.int_range(first_line, first_line + conformed.accepted.height)
        accepted = self.shape.select(conformed.accepted, contract=self.contract)
        yield self.shape.reduce(accepted, timeline=timeline, order=order)
        if conformed.rejected_count and self.contract.key and timeline is not None:
            lines = conformed.broken_cells["line"].unique() - first_line
            typed = text[lines].select(
                typed_column(pl.col(position_name(position)), column.output_type)
                for position, column in enumerate(columns)
            )
            rejected = self.shape.select(typed, contract=self.contract)
            reduced = self.shape.reduce(rejected, timeline=timeline, order=pl.lit(first_line))
            yield reduced.with_columns(
                window=pl.lit(OPEN, dtype=pl.Int32), version=pl.col("version").fill_null(0)
            )


def lake_rows(file: DataFile, *, contract: TableContract, store: ObjectStore) -> Iterator[pl.DataFrame]:
    """
    Return the rows of a committed file, columns named by position.

    Raises:
        Refused: if the file is not the one that the ledger knows.
        Unavailable: if the store does not answer.
    """
    for block in read_blocks(file, columns=contract.output_columns, store=store):
        yield pl.DataFrame(
            [series.alias(position_name(position)) for position, series in enumerate(block.get_columns())]
        )


def warehouse_rows(
    shape: Shape, *, warehouse: Warehouse, bounds: Bounds | None, timeline: Timeline | None
) -> Iterator[pl.DataFrame]:
    """
    Return what analysts see, reduced; within bounds, if there are any.

    Raises:
        Refused: if the view has not the columns of the shape, or values that do not fit their types.
        Unavailable: if the warehouse does not answer.
    """
    bounds = bounds or Bounds()
    for block in warehouse.read_rows(shape.contract, window=bounds.window, extent=bounds.extent):
        rows = shape.select(block, contract=shape.contract)
        yield shape.reduce(rows, timeline=timeline, order=pl.lit(0))
