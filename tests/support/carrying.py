"""One table led from its source to the warehouse by the real functions of every service, without a fleet."""

from collections.abc import Mapping
from dataclasses import replace

from support.extraction import BUCKET, make_assignment, run_extract

from services.processor.process import process
from services.publisher.memory import MemoryCatalog
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared.domain.batches import Stage
from shared.domain.contracts import QuarantineLimits, TableContract
from shared.domain.files import FileFormat


def carry(contract: TableContract, *, secrets: Mapping[str, str], warehouse: str) -> dict[str, int]:
    """
    Lead the whole table of a contract into the warehouse of a DSN, however many rows are rejected; return what was counted.

    Raises:
        Refused: if a stage refuses it; what came before it is not undone.
    """
    contract = replace(contract, limits=QuarantineLimits(10**6, 1.0))
    extracted, store = run_extract(contract, secrets=secrets)
    assignment = make_assignment(contract)
    batch = replace(assignment.batch, attempts=dict.fromkeys(Stage, 1), bucket=BUCKET)
    processed = process(replace(assignment, batch=batch, files=tuple(extracted.files)), store=store)
    final = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
    published = publish(
        replace(assignment, batch=batch, files=final),
        warehouse=PostgresWarehouse(warehouse, store=store),
        catalog=MemoryCatalog(),
    )
    counts = {**extracted.counts, **processed.counts, **published.counts}
    return {str(name): count for name, count in counts.items()}
