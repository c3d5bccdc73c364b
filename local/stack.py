"""
The embedded stack as a whole: AWS, PostgreSQL with its databases, the sample shop and the sample CRM.

    with supervise(home, purpose="up") as supervisor:
        stack = bring_up(supervisor, ports=PortBlock.find())

`bring_up` starts what does not run and repairs what a kill -9 left; on a running stack it does nothing. Workers are
started beside these by whoever needs them, with the same supervisor; `take_down` stops them first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from local import aws, crm
from local.passwords import password_file, read_or_create_password
from local.ports import LOOPBACK, PortBlock, accepts_connections, require_free_port
from local.postgres import (
    CONTROL_DATABASE,
    PROCESS_NAME,
    SHOP_DATABASE,
    SHOP_READER,
    START_SECONDS,
    WAREHOUSE_DATABASE,
    EmbeddedPostgres,
)
from local.processes import HOME_VARIABLE, PYTHON, Home, ProcessSpec, Supervisor, Tier
from local.shop import ShopSize, fill_shop
from shared.errors import ConfigurationError

CRM_PROCESS_NAME = "crm"
CRM_START_SECONDS = 30.0
FOUNDATION_NAMES = (PROCESS_NAME, aws.PROCESS_NAME, CRM_PROCESS_NAME)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a stack are reached, wherever they run. Secrets are in it: never log one as a whole."""

    crm_url: str
    aws_environment: dict[str, str]
    control_dsn: str = field(repr=False)
    warehouse_dsn: str = field(repr=False)
    #: For the sample's own writer. Extraction gets the reader's.
    shop_owner_dsn: str = field(repr=False)
    shop_reader_dsn: str = field(repr=False)
    crm_token: str = field(repr=False)
    #: The samples name the first; the second is there to try a rotation with.
    mask_keys: dict[str, str] = field(repr=False)


MASK_KEY_IDS = ("k1", "k2")


@dataclass(frozen=True, slots=True)
class Stack(Addresses):
    """A stack of processes on this machine."""

    home: Home
    ports: PortBlock
    #: The processes that this call started, and those that ran already.
    started: tuple[str, ...] = ()
    already_running: tuple[str, ...] = ()


def bring_up(
    supervisor: Supervisor,
    *,
    ports: PortBlock,
    crm_changes_per_second: float = 0.5,
    shop_size: ShopSize | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Stack:
    """
    Start what does not run, make the databases and fill the samples, and return where all is reached.

    `shop_size` is how many rows the sample shop gets when it is first filled. `on_step` is told what comes next, for a progress display.

    Raises:
        ConfigurationError: if a port is taken, or a part runs with other settings.
        Unavailable: if a part does not start; the message has the end of its log.
    """
    home = supervisor.home
    supervisor.sweep_strays()
    already_running = tuple(name for name in FOUNDATION_NAMES if supervisor.is_alive(name))
    postgres = EmbeddedPostgres(home.path, ports.postgres)
    customer_relations = crm_process(home, ports.crm, changes_per_second=crm_changes_per_second)
    _require_free_ports(ports, already_running=already_running)

    on_step("starting PostgreSQL, AWS and the sample CRM")
    if PROCESS_NAME not in already_running:
        postgres.prepare()
    supervisor.start(postgres.process())
    supervisor.start(customer_relations)
    aws.start(supervisor, ports.aws)
    supervisor.wait_until(PROCESS_NAME, postgres.answers, within_seconds=START_SECONDS)
    supervisor.wait_until(
        CRM_PROCESS_NAME, lambda: accepts_connections(ports.crm), within_seconds=CRM_START_SECONDS
    )

    on_step("creating databases and roles")
    for database in (CONTROL_DATABASE, WAREHOUSE_DATABASE, SHOP_DATABASE):
        postgres.create_database(database)
    postgres.create_reader(SHOP_READER)

    on_step("filling the sample shop")
    fill_shop(postgres.dsn(SHOP_DATABASE.name, role=SHOP_DATABASE.owner), size=shop_size)

    return describe(
        home,
        ports=ports,
        started=tuple(name for name in FOUNDATION_NAMES if name not in already_running),
        already_running=already_running,
    )


def describe(
    home: Home, *, ports: PortBlock, started: tuple[str, ...] = (), already_running: tuple[str, ...] = ()
) -> Stack:
    """
    Return where the parts of a stack are reached. Starts nothing and asks nobody.

    Raises:
        ConfigurationError: if no stack was ever brought up in this home.
    """
    if not password_file(home).exists():
        raise ConfigurationError(
            f"{home.path}: no stack was brought up here yet; bring it up first, or name its directory with {HOME_VARIABLE}"
        )
    postgres = EmbeddedPostgres(home.path, ports.postgres)
    return Stack(
        home=home,
        ports=ports,
        crm_url=f"http://{LOOPBACK}:{ports.crm}",
        aws_environment=aws.client_environment(ports.aws),
        control_dsn=postgres.dsn(CONTROL_DATABASE.name, role=CONTROL_DATABASE.owner),
        warehouse_dsn=postgres.dsn(WAREHOUSE_DATABASE.name, role=WAREHOUSE_DATABASE.owner),
        shop_owner_dsn=postgres.dsn(SHOP_DATABASE.name, role=SHOP_DATABASE.owner),
        shop_reader_dsn=postgres.dsn(SHOP_DATABASE.name, role=SHOP_READER.role),
        crm_token=read_or_create_password(home, "crm"),
        mask_keys={name: read_or_create_password(home, f"mask-{name}") for name in MASK_KEY_IDS},
        started=started,
        already_running=already_running,
    )


def take_down(supervisor: Supervisor, *, ports: PortBlock) -> list[str]:
    """Stop every process of this home, workers first, and return the names of what was stopped. Keeps the data."""
    stopped = supervisor.stop_all()
    EmbeddedPostgres(supervisor.home.path, ports.postgres).kill_orphans()
    return stopped


def crm_process(home: Home, port: int, *, changes_per_second: float) -> ProcessSpec:
    """Return how to run the sample CRM."""
    return ProcessSpec(
        name=CRM_PROCESS_NAME,
        command=[
            *(PYTHON, "-m", "local.crm"),
            *("--port", str(port)),
            *("--journal", str(home.path / "crm.jsonl")),
            *("--changes-per-second", str(changes_per_second)),
        ],
        environment={crm.TOKEN_VARIABLE: read_or_create_password(home, "crm")},
        stop_seconds=3.0,
        tier=Tier.FOUNDATION,
    )


def _require_free_ports(ports: PortBlock, *, already_running: tuple[str, ...]) -> None:
    """Ask for all ports before anything starts: nothing is left half started."""
    wanted = {
        PROCESS_NAME: (ports.postgres, "PostgreSQL"),
        aws.PROCESS_NAME: (ports.aws, "the local AWS server"),
        CRM_PROCESS_NAME: (ports.crm, "the sample CRM"),
    }
    for name, (port, purpose) in wanted.items():
        if name not in already_running:
            require_free_port(port, purpose=purpose)
