"""
Fills a lake catalog that lost its memory again from the ledger, which lost nothing.

`python -m services.publisher.restore` does it with the settings of a publisher.
"""

import sys

import structlog

from services.publisher.app import wired_publisher
from services.publisher.catalog import LakeCatalog
from services.publisher.publish import external_table_of, native_load, show_files
from shared import lifecycle
from shared.domain.batches import BatchState, Stage
from shared.domain.contracts import Target
from shared.domain.files import Area
from shared.ports import Ledger, LedgerTransaction
from shared.stage import Assignment
from shared.telemetry.logs import configure_logging

log = structlog.get_logger()


def restore_catalog(*, ledger: Ledger, catalog: LakeCatalog) -> int:
    """
    Show every published batch in the catalog again, oldest first, and return how many were shown.

    Repeating it, and doing it while publishers are at work, is harmless.

    Raises:
        Unavailable: if ledger or catalog do not answer.
    """
    with ledger.transaction() as tx:
        batches = tx.batches(states=[BatchState.PUBLISHED])
    shown = 0
    for batch in batches:
        with ledger.transaction() as tx:
            assignment = _last_assignment(tx, batch.id)
        if assignment is None or assignment.contract.publishing.target is Target.NATIVE:
            continue
        load, table = native_load(assignment), external_table_of(assignment)
        shown += show_files(load, table=table, catalog=catalog)
    log.info("catalog_restored", batch_count=shown)
    return shown


def main() -> int:
    """Restore the catalog of this deployment."""
    configure_logging("publisher")
    publisher = wired_publisher()
    restore_catalog(ledger=publisher.fleet.ledger, catalog=publisher.catalog)
    return 0


def _last_assignment(tx: LedgerTransaction, batch_id: str) -> Assignment | None:
    """Return what the attempt that published a batch was given."""
    batch = tx.batch(batch_id)
    if batch is None:
        return None
    attempt = tx.attempt(batch_id, Stage.PUBLISH, batch.attempt_number(Stage.PUBLISH))
    if attempt is None:
        return None
    contract = lifecycle.contract_of(tx, batch)
    return Assignment(attempt, batch, contract, tuple(lifecycle.files_to_check(tx, batch, Area.FINAL)))


if __name__ == "__main__":
    sys.exit(main())
