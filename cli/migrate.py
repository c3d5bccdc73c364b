"""The command that brings the ledger's tables up to date: migrate."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, connections_of
from cli.output import print_json

if TYPE_CHECKING:
    from infra.migrations import Chain


def migrate(
    context: typer.Context,
    phase: Annotated[
        str,
        typer.Option(
            "--phase",
            metavar="pre|post",
            help="pre: add what this version needs, before it runs. post: remove what only older versions used, "
            "when none of their processes is left.",
        ),
    ] = "pre",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; list what would run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Bring the ledger's tables to what this version needs, without stopping the fleet.

    Run `pre` before the first process of a new version starts, and `post` when the last of the version before is gone.
    Twice is no error, and of two at once one waits. docs/upgrades.md tells the order of an upgrade.
    """
    from infra.migrations import current, pending, upgrade

    chain = _chain_of(phase)
    fleet = connections_of(context).fleet()
    dsn = fleet.secrets.resolve(fleet.settings.ledger_dsn)
    ran = [f"{chain.phase} {revision}" for revision in pending(dsn, chain)]
    if not dry_run:
        ran = upgrade(dsn, chains=[chain])
    if as_json:
        print_json({"phase": chain.phase, "dry_run": dry_run, "ran": ran, "revision": current(dsn, chain)})
        return
    for revision in ran:
        typer.echo(f"{'would run' if dry_run else 'ran'}: {revision}")
    if not ran:
        typer.echo(f"nothing to do: phase {chain.phase} is at revision {current(dsn, chain) or 'none'}")


def _chain_of(phase: str) -> "Chain":
    from infra.migrations import POST, PRE

    chains = {str(chain.phase): chain for chain in (PRE, POST)}
    if phase not in chains:
        raise typer.BadParameter(f"expected {' or '.join(chains)}, found {phase!r}", param_hint="--phase")
    return chains[phase]
