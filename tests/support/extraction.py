"""Assignments of extract attempts, as the ledger would hand them out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from services.extractor.extract import extract
from services.extractor.readers import ReadLimits, open_reader
from shared.domain.batches import Attempt, AttemptState, Batch, BatchState, Stage, batch_id
from shared.domain.contracts import (
    Column,
    ColumnType,
    Cursor,
    Mask,
    MaskKind,
    Normalization,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
)
from shared.domain.windows import Schedule, Window
from shared.lifecycle import StageResult
from shared.object_store.memory import MemoryObjectStore
from shared.ports import ObjectStore
from shared.secrets.memory import MemorySecrets
from shared.stage import Assignment

MASK_KEY = "a key of more than sixteen bytes"
KEEP, DROP, WITHHOLD = Mask(MaskKind.KEEP), Mask(MaskKind.DROP), Mask(MaskKind.WITHHOLD)
REDACT, LAST4 = Mask(MaskKind.REDACT), Mask(MaskKind.LAST4)
HMAC = Mask(MaskKind.HMAC, domain="customer", key_id="k1")
HMAC_EMAIL = Mask(MaskKind.HMAC, domain="email", normalization=Normalization.EMAIL, key_id="k1")
HMAC_PHONE = Mask(MaskKind.HMAC, domain="phone", normalization=Normalization.PHONE, key_id="k1")

BUCKET = "esclusa-shop"
WINDOW = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))


def column(name: str, type_text: str = "string", mask: Mask = KEEP, **more: object) -> Column:
    """A column, kept unless a mask is given."""
    return Column(name, ColumnType.parse(type_text), mask, **more)  # type: ignore[arg-type]


def updated_at(*, overlap: timedelta = timedelta(0), lag: timedelta = timedelta(0)) -> Cursor:
    """The usual cursor."""
    return Cursor("updated_at", lag=lag, overlap=overlap)


def make_contract(
    columns: Sequence[Column],
    *,
    relation: tuple[str, ...] = ("public", "customers"),
    cursor: Cursor | None = None,
    kind: SourceKind = SourceKind.POSTGRES,
    connection: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    mask_key: str = "env:MASK_KEY",
) -> TableContract:
    """A contract of one table."""
    return TableContract(
        origin=Origin(
            source="shop",
            kind=kind,
            connection=connection or {"dsn": "env:SHOP_DSN"},
            mask_keys={"k1": mask_key, "k2": "env:MASK_KEY_2"},
        ),
        table=relation[-1],
        relation=relation,
        columns=tuple(columns),
        key=(columns[0].name,),
        cursor=cursor,
        schedule=Schedule(timedelta(minutes=15), timedelta(hours=1), 24),
        publishing=Publishing(PublishMode.MERGE if cursor else PublishMode.REPLACE),
        options=options or {},
    )


def make_assignment(contract: TableContract, *, window: Window = WINDOW, attempt: int = 1) -> Assignment:
    """An attempt on a batch of the contract."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    batch = Batch(
        id=batch_id(contract.source, contract.table, "slot"),
        source=contract.source,
        table=contract.table,
        slot="slot",
        window=window,
        contract_version=1,
        configuration_sha256="0" * 64,
        bucket=BUCKET,
        state=BatchState.EXTRACTING,
        planned_at=now,
        changed_at=now,
        attempts={Stage.EXTRACT: attempt},
    )
    claimed = Attempt(batch.id, Stage.EXTRACT, attempt, "worker", AttemptState.RUNNING, now, now)
    return Assignment(claimed, batch, contract)


def run_extract(
    contract: TableContract,
    *,
    secrets: Mapping[str, str],
    window: Window = WINDOW,
    store: ObjectStore | None = None,
    part_size_in_bytes: int = 1024 * 1024,
    limits: ReadLimits | None = None,
) -> tuple[StageResult, ObjectStore]:
    """Extract one window of a table, as an attempt would; return what came of it and where the files are."""
    store = store or MemoryObjectStore()
    vault = MemorySecrets({"env:MASK_KEY": MASK_KEY, **secrets})
    with open_reader(contract, secrets=vault, limits=limits or ReadLimits()) as reader:
        result = extract(
            make_assignment(contract, window=window),
            reader=reader,
            store=store,
            secrets=vault,
            part_size_in_bytes=part_size_in_bytes,
        )
    return result, store


def bodies(result: StageResult, store: ObjectStore) -> list[bytes]:
    """The records of each file, without its header."""
    return [store.read(file.location).partition(b"\n")[2] for file in result.files]
