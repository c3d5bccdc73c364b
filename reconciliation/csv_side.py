"""The side of the CSV files, which are gone once their batch is committed: what ledger and manifests say of them."""

from collections.abc import Mapping

from reconciliation.findings import Difference, LakeCount, Measure
from reconciliation.sides import Side
from services.processor.checksum import Checksum
from shared.domain.batches import Batch, Stage
from shared.domain.counts import Count, broken_sum


def csv_checksum(batch: Batch, manifest: Mapping[str, object] | None) -> Checksum | None:
    """
    Return the checksum of the rows that the processor accepted and kept; None if that is not known.

    It is not known of batches processed by older versions, and of those with several versions of a row: the
    manifest has the sum over all of them.
    """
    accepted = Checksum.from_entry((manifest or {}).get("accepted"))
    return None if batch.counts.get(Count.ROWS_DEDUPLICATED) else accepted


def csv_difference(batch: Batch, *, accepted: Checksum | None, lake: LakeCount) -> Difference | None:
    """Return how the files of a batch in the lake differ from what was read and accepted; None if they do not."""
    for stage in (Stage.EXTRACT, Stage.PROCESS):
        if sentence := broken_sum(stage, batch.counts):
            return Difference((Side.SOURCE, Side.CSV), Measure.COUNT, sentence)
    between = (Side.CSV, Side.LAKE)
    if lake.problem:
        return Difference(between, Measure.CONTENT, lake.problem)
    expected, found = batch.counts.get(Count.ROWS_IN_FINAL, 0), lake.checksum.row_count
    if expected != found:
        detail = f"{expected} rows of the batch were accepted, its files in the lake hold {found}"
        return Difference(between, Measure.COUNT, detail)
    if accepted is not None and accepted != lake.checksum:
        detail = (
            f"the checksum of the {expected} rows accepted was {accepted.text}, that of its files in the lake is "
            f"{lake.checksum.text}"
        )
        return Difference(between, Measure.CHECKSUM, detail)
    return None
