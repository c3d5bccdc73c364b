"""What `esclusa doctor` finds, and of whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cli.checks import Verdict
from cli.context import Connections
from infra.matrix import lines_of
from infra.plan import AUDITOR, PLANNER, UPKEEP
from shared.settings import Deployment

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.fleet import Fleet

#: A source's clock may be anywhere; ours signs requests, which S3 refuses from a quarter of an hour on.
#: Source: Amazon S3 API Reference, "Error responses", RequestTimeTooSkewed.
SKEW_WARNING = timedelta(seconds=5)
SKEW_FAILURE = timedelta(minutes=5)

READ_SOURCES = ("extractor", PLANNER, AUDITOR)
READ_WAREHOUSE = ("publisher", AUDITOR, UPKEEP)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one look."""

    name: str
    verdict: Verdict
    #: What was found. Never a secret.
    found: str
    #: What to do, if anything.
    advice: str = ""


Look = Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Patient:
    """The process that is looked at."""

    role: str
    fleet: "Fleet"
    connections: Connections
    catalog: "Catalog"
    #: What a look may take.
    patience: timedelta

    @property
    def is_local(self) -> bool:
        """Whether it speaks to the local server, which lets everybody do everything."""
        return self.fleet.settings.deployment is Deployment.LOCAL

    @property
    def lines(self) -> Mapping[str, tuple[str, ...]]:
        """Its lines of the matrix; those that Redshift adds are not tried."""
        return lines_of(self.role, is_redshift=False)


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, Verdict.OK, found)


def skipped(name: str, why: str) -> Finding:
    """Return that nothing was looked at."""
    return Finding(name, Verdict.SKIPPED, why)


#: By the first word of a look's name.
ADVICE: Mapping[str, str] = {
    "ledger": "see whether the database answers from here, ESCLUSA_LEDGER_DSN, and `esclusa migrate --phase pre`",
    "secret": "see whether the secret exists, and whether this role may read it (docs/security.md)",
    "bucket": "see whether `esclusa infra deploy` was run, and the role's lines in docs/security.md",
    "queue": "see ESCLUSA_QUEUE_URLS, whether `esclusa infra deploy` was run, and the role's lines in docs/security.md",
    "source": "see whether it answers from here; `esclusa check --source` looks closer",
    "warehouse": "see ESCLUSA_WAREHOUSE_DSN, and whether the warehouse answers from here",
    "catalog": "see whether this role may use Glue (docs/security.md)",
    "identity": "see the credentials of this process: instance profile, service account, AWS_PROFILE",
}


def skewed(name: str, skew: timedelta, *, whose: str) -> Finding:
    """Return that the clock of this machine and another one are too far apart."""
    verdict = Verdict.FAILED if abs(skew) > SKEW_FAILURE else Verdict.WARNING
    way = "ahead of" if skew > timedelta() else "behind"
    return Finding(
        name,
        verdict,
        f"the clock of this machine is {abs(skew).total_seconds():.0f} seconds {way} that of {whose}",
        "let chrony or the like set the clock: requests are signed with it",
    )
