"""What has to hold once nothing moves any more: ledger, bucket and outbox against each other."""

from collections import Counter
from datetime import timedelta

from support.fleet import SmallFleet, until
from support.history import faults_of

from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.sweep import sweep
from shared.domain.batches import FINAL_STATES, AttemptState, BatchState, Stage
from shared.domain.counts import Count
from shared.domain.files import TRANSIENT_AREAS, Area


def assert_clean_at_rest(fleet: SmallFleet, *sources: str) -> None:
    """
    Check everything that promises 9 to 12 say of a fleet at rest.

    Objects of attempts that were killed may lie about until the sweeper takes them for strays, hours later: it is
    called here without its patience.
    """
    fleet.wait_until_at_rest()
    for source in sources:
        sweep_without_patience(fleet, source)
        until(lambda source=source: not _disagreements(fleet, source), what=f"ledger and bucket of {source}")
        _assert_windows_tile(fleet, source)
    with fleet.fleet.ledger.transaction() as tx:
        batches = [batch for source in sources for batch in tx.batches(source=source)]
        assert {batch.id: str(batch.state) for batch in batches if batch.state not in FINAL_STATES} == {}
        for batch in batches:
            assert faults_of(tx, batch) == []
            if batch.state is BatchState.PUBLISHED:
                assert batch.counts[Count.ROWS_STAGED] == batch.counts[Count.ROWS_IN_FINAL], batch.id
        assert tx.pending_message_count() == 0


def attempts_per_stage(fleet: SmallFleet) -> Counter[tuple[Stage, AttemptState]]:
    """Return how the attempts of all batches ended."""
    found: Counter[tuple[Stage, AttemptState]] = Counter()
    with fleet.fleet.ledger.transaction() as tx:
        for batch in tx.batches():
            found.update((attempt.stage, attempt.state) for attempt in tx.attempts(batch.id))
    return found


def sweep_without_patience(fleet: SmallFleet, source: str) -> None:
    """Take away at once what attempts left that died: deeply, and after the fleet's own sweep if one is at it."""
    at_once = timedelta(0)
    limits = SweepLimits(
        wake_after=at_once,
        clean_after=at_once,
        stray_after=at_once,
        upload_after=at_once,
        foreign_after=at_once,
    )

    def is_swept() -> bool:
        report = sweep(
            ledger=fleet.fleet.ledger,
            store=fleet.fleet.store,
            sender=fleet.fleet.sender,
            buckets=[fleet.bucket(source)],
            limits=limits,
            retry=fleet.fleet.settings.retry_policy,
            areas=tuple(Area),
        )
        return not report.skipped

    until(is_swept, what="a sweep of ours alone")


def _disagreements(fleet: SmallFleet, source: str) -> list[str]:
    """Say what the ledger and the bucket of a source do not agree on, or what is left over."""
    store, bucket = fleet.fleet.store, fleet.bucket(source)
    listed = {info.location for area in Area for info in store.list(bucket, f"{area}/")}
    present = {
        file.location: file
        for file in fleet.files()
        if file.location.bucket == bucket and file.deleted_at is None
    }
    committed = {batch.id: batch.committed_attempt for batch in fleet.batches(source=source)}
    return [
        *(f"{location} is in the bucket only" for location in listed - present.keys()),
        *(f"{location} is in the ledger only" for location in present.keys() - listed),
        *(f"{file.location} is left over" for file in present.values() if file.area in TRANSIENT_AREAS),
        *(
            f"{file.location} is of attempt {file.attempt}, which nobody committed"
            for file in present.values()
            if file.area is Area.FINAL and committed.get(file.batch_id or "") != file.attempt
        ),
        *(f"{upload.location}: an upload is open" for upload in store.open_uploads(bucket)),
    ]


def _assert_windows_tile(fleet: SmallFleet, source: str) -> None:
    for contract in (c for s in fleet.catalog_sources() if s.name == source for c in s.contracts()):
        if contract.cursor is None:
            continue
        windows = sorted(batch.window.end for batch in fleet.batches(source=source, table=contract.table))
        starts = sorted(
            batch.window.start
            for batch in fleet.batches(source=source, table=contract.table)
            if batch.window.start is not None
        )
        assert windows[:-1] == starts, f"{source}.{contract.table}: windows leave a gap or overlap"
