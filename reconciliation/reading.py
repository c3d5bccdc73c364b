"""Reads the sides of a group of windows, one after the other, as often as asked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from reconciliation.compare import Compared, Swept, compared_rows
from reconciliation.findings import LakeCount
from reconciliation.history import Group, History
from reconciliation.shape import Shape, has_alike
from reconciliation.sides import Side, SourceRows, lake_rows, warehouse_rows
from services.processor.checksum import Checksum, fingerprint
from services.processor.decode import position_name
from services.publisher.read_back import polars_type
from services.publisher.warehouse import Warehouse
from shared.compactions import CommittedRows
from shared.domain.batches import Batch
from shared.domain.contracts import DeleteMode, keys_of
from shared.domain.files import DataFile
from shared.errors import Refused
from shared.ports import Ledger, ObjectStore, SecretStore
from shared.visits import visiting


@dataclass(frozen=True, slots=True)
class Places:
    """Where the sides are."""

    ledger: Ledger
    store: ObjectStore
    secrets: SecretStore
    warehouse: Warehouse


class Reading:
    """Reads the sides of a group, one after the other, as often as asked."""

    def __init__(
        self, group: Group, *, history: History, places: Places, on_rows: Callable[[int], None]
    ) -> None:
        self.group = group
        #: The side that is being read.
        self.side = Side.LAKE
        #: What was read of the files of each batch.
        self.lake_counts: dict[str, LakeCount] = {}
        self.history = history
        self.places = places
        self._timeline = group.timeline
        self._rows: CommittedRows | None = None
        self._on_rows = on_rows

    @property
    def sides(self) -> list[Side]:
        """The sides that there are, in the order of reading."""
        return (
            [Side.WAREHOUSE, Side.LAKE, Side.SOURCE]
            if self.group.has_native_target
            else [Side.LAKE, Side.SOURCE]
        )

    def compared(self, rows: dict[Side, pl.DataFrame], *, swept_keys: pl.DataFrame) -> Compared:
        """Return the rows that count."""
        return compared_rows(
            rows[Side.SOURCE],
            rows[Side.LAKE],
            rows.get(Side.WAREHOUSE),
            mode=self.group.contract.publishing.mode,
            has_key=bool(self.group.contract.key),
            swept=self.swept(swept_keys),
        )

    @property
    def is_swept(self) -> bool:
        """Whether key sweeps delete rows of the table."""
        return self.group.contract.deletes.mode is DeleteMode.SWEEP

    def swept_keys(self) -> Iterator[pl.DataFrame]:
        """
        Read the keys of the last key sweep.

        Raises:
            Refused: if its files are not those that the ledger knows.
            Unavailable: if the store does not answer.
        """
        self.side = Side.LAKE
        sweep = self._usable_sweep
        if sweep is None:
            return
        contract = keys_of(self.history.contracts[sweep.contract_version])
        shape = Shape(keys_of(self.group.shape.contract))
        for file in self._files_of(sweep):
            for rows in lake_rows(file, contract=contract, store=self.places.store):
                self._on_rows(rows.height)
                yield shape.reduce(shape.select(rows, contract=contract), timeline=None, order=pl.lit(0))

    def swept(self, keys: pl.DataFrame) -> Swept | None:
        """Return what the last key sweep said, given its keys; None for a table that is not swept."""
        if not self.is_swept:
            return None
        sweep = self._usable_sweep
        if sweep is None:
            return Swept()
        return Swept(keys, sum(batch.as_of <= sweep.as_of for batch in self.group.batches))

    @property
    def _usable_sweep(self) -> Batch | None:
        """The last key sweep, unless its keys are of another type, or masked otherwise, than those compared."""
        sweep, shape = self.history.key_sweep, self.group.shape
        if sweep is None or not self.is_swept:
            return None
        swept = self.history.contracts[sweep.contract_version]
        key = [shape.contract.column(name) for name in shape.contract.key]
        return sweep if all(has_alike(swept, column) for column in key) else None

    def rows_of(self, side: Side) -> Iterator[pl.DataFrame]:
        """Read a side."""
        self.side = side
        for rows in self._blocks_of(side):
            self._on_rows(rows.height)
            yield rows

    def no_rows(self) -> pl.DataFrame:
        """Return no row, in the form of those that are read."""
        columns = {
            position_name(number): column.output_type
            for number, column in enumerate(self.group.shape.columns)
        }
        empty = pl.DataFrame(schema={name: polars_type(type_) for name, type_ in columns.items()})
        return self.group.shape.reduce(empty, timeline=self._timeline, order=pl.lit(0))

    def _blocks_of(self, side: Side) -> Iterator[pl.DataFrame]:
        group = self.group
        if side is Side.WAREHOUSE:
            return warehouse_rows(
                group.shape, warehouse=self.places.warehouse, bounds=group.bounds, timeline=self._timeline
            )
        if side is Side.LAKE:
            return self._lake_blocks()
        return self._source_blocks()

    def _source_blocks(self) -> Iterator[pl.DataFrame]:
        group = self.group
        source = SourceRows(group.contract, group.shape, self.places.secrets, group.bounds)
        # One for the rows, one for the clock.
        with visiting(group.contract.source, who="prove", ledger=self.places.ledger, connection_count=2):
            yield from source.read(self._timeline)

    def _lake_blocks(self) -> Iterator[pl.DataFrame]:
        shape = self.group.shape
        for order, batch in enumerate(self.group.batches):
            contract = self.history.contracts[batch.contract_version]
            count = self.lake_counts[batch.id] = LakeCount()
            cells = [
                (pl.col(position_name(position)), column.output_type)
                for position, column in enumerate(contract.output_columns)
            ]
            for file in self._files_of(batch):
                try:
                    for rows in lake_rows(file, contract=contract, store=self.places.store):
                        count.checksum += Checksum.of(rows.select(fingerprint(cells).alias("row"))["row"])
                        selected = shape.select(rows, contract=contract)
                        yield shape.reduce(selected, timeline=self._timeline, order=pl.lit(order))
                except Refused as refusal:
                    count.problem = count.problem or str(refusal)

    def _files_of(self, batch: Batch) -> list[DataFile]:
        """
        Return where the rows of a batch lie.

        What was compacted when the reading began: files that are replaced meanwhile stay for a day at least.
        """
        with self.places.ledger.transaction() as tx:
            if self._rows is None:
                self._rows = CommittedRows.of(tx, batch.source, batch.table)
            return self._rows.files_of(tx, batch)
