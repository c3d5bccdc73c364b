"""What a comparison found, into the ledger: status and alarms read it there."""

from dataclasses import replace
from datetime import datetime

from reconciliation.findings import TableFinding, WindowFinding
from reconciliation.sides import Side
from services.processor.checksum import SCHEME, Checksum
from shared.domain.counts import Count
from shared.domain.proofs import Proof
from shared.domain.windows import slot_of
from shared.ports import Ledger, LedgerTransaction


def record(finding: TableFinding, *, ledger: Ledger) -> None:
    """
    Keep what was found of each window.

    Raises:
        Unavailable: if the ledger does not answer.
    """
    with ledger.transaction() as tx:
        now = tx.now()
        for window in finding.windows:
            tx.insert_proof(_proof(finding, window, at=now))
        _settle_replaced_snapshots(tx, finding, at=now)


def sides_document(window: WindowFinding) -> dict[str, object]:
    """Return what each side showed, as JSON values."""
    document: dict[str, object] = {
        str(side): _side_document(checksum) for side, checksum in window.sides.items()
    }
    counts = window.batch.counts
    return {
        **document,
        str(Side.CSV): {
            "rows_written": counts.get(Count.ROWS_WRITTEN, 0),
            "rows_rejected": window.rejected_row_count,
            "rows_deduplicated": counts.get(Count.ROWS_DEDUPLICATED, 0),
            **(_side_document(window.sides[Side.CSV]) if Side.CSV in window.sides else {}),
        },
    }


def _side_document(checksum: Checksum) -> dict[str, object]:
    return {"row_count": checksum.row_count, "checksum": checksum.text, "scheme": SCHEME}


def _proof(finding: TableFinding, window: WindowFinding, *, at: datetime) -> Proof:
    return Proof(
        source=finding.source,
        table=finding.table,
        window=window.batch.window,
        extent=window.batch.extent,
        proved_at=at,
        is_equal=window.is_equal,
        detail=window.difference.sentence if window.difference else "",
        sides=sides_document(window),
    )


def _settle_replaced_snapshots(tx: LedgerTransaction, finding: TableFinding, *, at: datetime) -> None:
    """
    End the differences of older snapshots of a replaced table: nothing of them is shown any more.

    A snapshot's window is never compared again once there is a newer one, so no later proof would.
    """
    if not finding.is_snapshot:
        return
    (newest,) = finding.windows
    for proof in tx.latest_proofs(finding.source, finding.table, differing_only=True):
        if proof.window.end < newest.batch.window.end:
            replaced = {"replaced_by_snapshot_of": slot_of(newest.batch.window.end)}
            tx.insert_proof(replace(proof, proved_at=at, is_equal=True, detail="", sides=replaced))
