"""What a deployment decides, and which parts there are to deploy. Everything else follows from these."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName

#: The Lambdas that a queue calls, and that queue.
FUNCTION_QUEUES: Mapping[str, QueueName] = {
    **{str(queue): queue for queue in GATE_QUEUES.values()},
    "cleaner": QueueName.CLEAN,
}

#: The queues of each worker service. A worker takes from one of them; which one, its settings say.
WORKER_QUEUES: Mapping[str, tuple[QueueName, ...]] = {
    "extractor": (QueueName.EXTRACT, QueueName.BACKFILL),
    "processor": (QueueName.PROCESS,),
    "publisher": (QueueName.PUBLISH,),
}

#: What cron runs: `planner` enqueues and counts, `auditor` proves, `upkeep` compacts tables (and widens or leads them back, by hand).
PLANNER = "planner"
AUDITOR = "auditor"
UPKEEP = "upkeep"
#: Tells Prometheus what ledger and queues say.
EXPORTER = "exporter"

#: What people do by a managed policy that their own role gets: look into queues and at what is held.
OPERATOR = "operator"

#: Every role that a process outside of Lambda takes.
SERVICE_ROLES = (*WORKER_QUEUES, PLANNER, AUDITOR, UPKEEP, EXPORTER)

SWEEPER = "sweeper"
WATCHER = "watcher"

#: The Lambdas that a schedule calls: what each call is, by its name.
SCHEDULES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    SWEEPER: {"often": ("rate(1 minute)", "{}"), "deep": ("rate(1 hour)", '{"deep": true}')},
    WATCHER: {"often": ("rate(1 minute)", "{}")},
}


@dataclass(frozen=True, slots=True)
class InlineCode:
    """The Lambdas find the packages on their path: a line that imports the handler is their whole code."""


@dataclass(frozen=True, slots=True)
class PackagedCode:
    """The Lambdas' code is a zip in a bucket."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Network:
    """Where the Lambdas stand so that they reach a ledger without a public address."""

    subnet_ids: tuple[str, ...]
    security_group_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RedshiftTarget:
    """The warehouse that statements are sent to: a workgroup, or a cluster and one of its databases."""

    arn: str
    database: str = ""
    #: The secret of the database user, if the Data API is to sign in with one.
    secret_arn: str = ""
    #: The database user of a cluster without a secret; empty: the identity of the role.
    db_user: str = ""

    @property
    def is_serverless(self) -> bool:
        """Whether it is a workgroup."""
        return ":redshift-serverless:" in self.arn


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment decides."""

    #: Begins the name of everything.
    prefix: str
    #: Reference to the control database's DSN.
    ledger_dsn: str
    #: Reference to the DSN of a warehouse in PostgreSQL, which only publisher, auditor and upkeep may read; else empty.
    warehouse_dsn: str
    code: InlineCode | PackagedCode
    #: Reference to the certificates that database servers are checked against; empty: none but the system's.
    ca_certificates: str = ""
    #: `local` or `aws`, see `shared.settings.Deployment`.
    deployment: str = "aws"
    #: Encrypts the buckets; None: a key that the shared stack makes, and keeps when it goes.
    kms_key_arn: str | None = None
    #: Buckets keep what was deleted or written over in `final/` for so long, elsewhere a day; None: no versions.
    noncurrent_retention_days: int | None = 30
    worker_visibility_timeout_seconds: int = 120
    function_timeout_seconds: int = 60
    function_memory_mb: int = 512
    log_retention_days: int = 30
    #: More than a stage has attempts: it is the ledger that gives a batch up, not its message.
    max_receive_count: int = 15
    max_concurrency: int = 10
    #: Whether the Lambdas have their concurrency to themselves. A new account has too little of it to share out.
    is_concurrency_reserved: bool = True
    #: What still lies in `tmp/` after so long, of whatever origin, goes.
    transient_retention_days: int = 7
    quarantine_retention_days: int = 90
    #: An alarm of CloudWatch, if the oldest message of a queue is older than this.
    oldest_message_alarm_seconds: int = 3600
    network: Network | None = None
    #: Identity provider of a Kubernetes cluster, whose service accounts of this namespace take the service roles.
    oidc_provider_arn: str | None = None
    service_account_namespace: str = "esclusa"
    redshift: RedshiftTarget | None = None
    #: Where the watcher's notices go: one of the two, or nowhere but into the log.
    alarm_topic_arn: str | None = None
    #: References to the URL and to the key that signs.
    alarm_webhook_url: str | None = None
    alarm_webhook_key: str | None = None
    #: More settings of the Lambdas, by environment variable.
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def ledger_references(self) -> list[str]:
        """What whoever speaks to the ledger has to read: its DSN, and the certificates that its server is checked against."""
        return [reference for reference in (self.ledger_dsn, self.ca_certificates) if reference]
