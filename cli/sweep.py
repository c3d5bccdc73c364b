"""The command that heals: sweep. The sweeper's Lambda runs the same code every minute."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, connections_of, settings_named
from cli.output import ExitCode, NotFound, heading, print_json, print_table, remark, text_of, whole
from shared.domain.files import TRANSIENT_AREAS, Area

if TYPE_CHECKING:
    from lambdas.sweeper.limits import SweepLimits
    from lambdas.sweeper.report import SweepReport
    from shared.fleet import Fleet

SourceNames = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME", help="Search only the bucket of this source. Repeatable."),
]


def sweep(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; list what a run would do, and why.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Search final/ and quarantine/ too, which may take long.")
    ] = False,
    source: SourceNames = None,
    delete_limit: Annotated[
        int | None,
        typer.Option(
            "--delete-limit",
            min=0,
            metavar="N",
            help="Take away at most so many objects and uploads; else ESCLUSA_SWEEP_DELETE_LIMIT.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Heal what was recorded and never happened, and what happened and was never recorded; list each thing and why.

    The sweeper does the same every minute, and --deep every hour. Of two at once, the second leaves to the first
    what that one is at. The ledger is swept whole, whatever --source says.
    """
    from lambdas.sweeper.sweep import sweep as sweep_buckets

    fleet = connections_of(context).fleet()
    report = sweep_buckets(
        ledger=fleet.ledger,
        store=fleet.store,
        sender=fleet.sender,
        buckets=_buckets(fleet, source),
        limits=_limits(delete_limit),
        retry=fleet.settings.retry_policy,
        areas=tuple(Area) if deep else TRANSIENT_AREAS,
        is_dry_run=dry_run,
    )
    if as_json:
        print_json(_document(report))
    else:
        _print_report(report)
    _remark_on(report)
    if report.is_worrying:
        raise typer.Exit(ExitCode.PROBLEM)


def _buckets(fleet: "Fleet", names: Sequence[str] | None) -> list[str]:
    """
    Return the buckets to search.

    Raises:
        NotFound: if the ledger knows no table of a source.
    """
    with fleet.ledger.transaction() as tx:
        known = sorted({source for source, _ in tx.known_tables()})
    for name in names or ():
        if name not in known:
            raise NotFound(
                f"source {name!r}: the ledger knows no table of it; `esclusa enqueue` plans the first"
            )
    return [fleet.settings.bucket(name) for name in dict.fromkeys(names or known)]


def _limits(delete_limit: int | None) -> "SweepLimits":
    from lambdas.sweeper.settings import SweeperSettings

    with settings_named():
        limits = SweeperSettings().limits()
    return limits if delete_limit is None else replace(limits, delete_limit=delete_limit)


def _document(report: "SweepReport") -> dict[str, object]:
    actions = [
        {"kind": action.kind, "subject": action.subject, "because": action.because}
        for action in report.actions
    ]
    return {**report.document(), "actions": actions}


def _print_report(report: "SweepReport") -> None:
    print_table(
        [whole("would do" if report.is_dry_run else "done"), whole("to"), heading("because")],
        [(action.kind, action.subject, action.because) for action in report.actions],
        none="nothing to do",
    )
    if counts := ", ".join(f"{count} {kind}" for kind, count in report.counts.items() if count):
        typer.echo(f"{'a run would do' if report.is_dry_run else 'done'}: {counts}")


def _remark_on(report: "SweepReport") -> None:
    """Say what is not as it should be, and what was not done."""
    from lambdas.sweeper.actions import ActionKind

    for part in report.skipped:
        remark(f"{part}: skipped, another sweep is at it")
    if report.waiting_long:
        remark(
            f"{len(report.waiting_long)} batches were woken again and again and did not move; `esclusa why BATCH` "
            f"tells what each waits for, the first: {report.waiting_long[0].id}"
        )
    if report.is_delete_limit_reached:
        remark(
            "the delete limit is reached, and what is above it stays: is this ledger the right one, and up to date? "
            "Look at what would go with --dry-run, then raise --delete-limit"
        )
    if count := report.counts[ActionKind.LEAVE_UNKNOWN]:
        remark(
            f"{count} objects or uploads are of attempts that this ledger never began, and stay: it was restored "
            "from a backup older than they are, or another fleet writes to the bucket"
        )
    for bucket, error in report.buckets_not_swept.items():
        remark(f"{bucket}: not swept: {text_of(error)}")
    for location in report.objects_not_judged:
        remark(f"{text_of(location)}: not judged, the log tells why (esclusa --verbose sweep)")
    for item in report.not_reached:
        remark(f"{item.where}: not searched to its end")
