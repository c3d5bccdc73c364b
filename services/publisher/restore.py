"""
Fills a lake catalog that lost its memory again from the ledger, which lost nothing.

`python -m services.publisher.restore` does it with the settings of a publisher.
"""

import sys
from dataclasses import replace
from itertools import groupby

import structlog

from services.publisher.app import wired_publisher
from services.publisher.catalog import (
    MAX_PARTITIONS_PER_REQUEST,
    ExternalBatch,
    ExternalTable,
    LakeCatalog,
)
from services.publisher.partitions import partitions_of, shown_table
from shared.domain.batches import Batch
from shared.domain.contracts import PublishMode, TableContract, Target
from shared.domain.windows import is_key_sweep
from shared.errors import Refused
from shared.ports import Ledger
from shared.telemetry.logs import configure_logging
from shared.visible import published_batches

log = structlog.get_logger()


def restore_catalog(*, ledger: Ledger, catalog: LakeCatalog) -> int:
    """
    Show every published batch in the catalog again, and return how many were shown.

    Repeating it, and doing it while publishers are at work, is harmless.

    Raises:
        Refused: if there are tables that the catalog cannot show; it names them. All others are shown by then.
        Unavailable: if ledger or catalog do not answer.
    """
    with ledger.transaction() as tx:
        names = tx.known_tables()
    shown, refused = 0, []
    for name in names:
        try:
            shown += _restore_table(*name, ledger=ledger, catalog=catalog)
        except Refused as error:
            refused.append(error)
    log.info("catalog_restored", batch_count=shown, refused_table_count=len(refused))
    if refused:
        raise Refused(refused[0].reason, "; ".join(error.detail for error in refused))
    return shown


def _restore_table(source: str, table: str, *, ledger: Ledger, catalog: LakeCatalog) -> int:
    with ledger.transaction() as tx:
        found = published_batches(tx, source, table, with_withdrawn=True)
        batches = [batch for batch in found if not is_key_sweep(batch.slot)]
        contracts = {
            version: tx.contract(source, table, version).contract
            for version in {batch.contract_version for batch in batches}
        }
        row_count = tx.published_row_count(source, table)
    by_version = groupby(
        sorted(batches, key=lambda batch: batch.contract_version), key=lambda batch: batch.contract_version
    )
    shown = 0
    for version, of_version in by_version:
        contract = contracts[version]
        if contract.publishing.target is Target.NATIVE:
            continue
        some = list(of_version)
        with ledger.transaction() as tx:
            external = shown_table(tx, contract, contract_version=version, bucket=some[0].bucket)
        external = replace(external, record_count=row_count)
        shown += _show(some, contract, external, ledger=ledger, catalog=catalog)
    return shown


def _show(
    batches: list[Batch],
    contract: TableContract,
    table: ExternalTable,
    *,
    ledger: Ledger,
    catalog: LakeCatalog,
) -> int:
    with ledger.transaction() as tx:
        partitions = list(partitions_of(tx, table, batches))
    if contract.publishing.mode is PublishMode.REPLACE:
        snapshots = [partition for partition in partitions if not partition.moved_by]
        return sum(
            catalog.put_snapshot(table, snapshot)
            for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.window_end)
        )
    catalog.put_partitions(table, [partition for partition in partitions if not partition.moved_by])
    for moved in _requests([partition for partition in partitions if partition.moved_by]):
        catalog.switch_partitions(table, moved)
    return len(partitions)


def _requests(partitions: list[ExternalBatch]) -> list[list[ExternalBatch]]:
    """Return them so that those of one compaction are switched in one request."""
    requests: list[list[ExternalBatch]] = []
    for _, moved in groupby(sorted(partitions, key=lambda one: one.moved_by), key=lambda one: one.moved_by):
        some = list(moved)
        size = MAX_PARTITIONS_PER_REQUEST
        requests += [some[start : start + size] for start in range(0, len(some), size)]
    return requests


def main() -> int:
    """Restore the catalog of this deployment."""
    configure_logging("publisher")
    publisher = wired_publisher()
    restore_catalog(ledger=publisher.fleet.ledger, catalog=publisher.catalog)
    return 0


if __name__ == "__main__":
    sys.exit(main())
