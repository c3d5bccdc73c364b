"""
AWS on one machine: one MiniStack process, reached through `AWS_ENDPOINT_URL` and coupled to nothing else of ours.

Objects are on the disk at once. Everything else (queues, functions, secrets, stacks, the Glue catalog) MiniStack
writes only when it ends by SIGTERM; `checkpoint` makes it do so, and a later kill -9 falls back to that moment.
Measured on MiniStack 1.5.33.
"""

import http
import http.client
import shutil
from pathlib import Path

from local.ports import LOOPBACK, require_free_port
from local.processes import PYTHON, Home, ProcessSpec, Supervisor, Tier

PROCESS_NAME = "aws"
REGION = "eu-west-1"
ACCOUNT_ID = "000000000000"
START_SECONDS = 60.0
COMMAND = (PYTHON, "-m", "ministack")


def endpoint_url(port: int, *, host: str = LOOPBACK) -> str:
    """Return where every AWS service of the stack listens."""
    return f"http://{host}:{port}"


def client_environment(port: int, *, host: str = LOOPBACK) -> dict[str, str]:
    """
    Return the environment with which boto3 reaches the local server, and nothing else.

    The credentials open nothing. Configuration files and the metadata service are cut off, so that no real
    account can take their place.
    """
    return {
        "AWS_ENDPOINT_URL": endpoint_url(port, host=host),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def start(supervisor: Supervisor, port: int) -> bool:
    """
    Start the server unless it runs, and wait until it answers; return whether it was started.

    Raises:
        ConfigurationError: if the port is taken.
        Unavailable: if it does not start.
    """
    if not supervisor.is_alive(PROCESS_NAME):
        require_free_port(port, purpose="the local AWS server")
        prepare_directory(supervisor.home.path / "aws")
    started = supervisor.start(process(supervisor.home, port))
    supervisor.wait_until(PROCESS_NAME, lambda: answers(port), within_seconds=START_SECONDS)
    return started


def checkpoint(supervisor: Supervisor, port: int) -> None:
    """
    Restart the server, so that it writes its state. Takes about a second; clients see refused connections.

    After a kill -9 it comes back as it was now: queues with the messages of now, stacks, functions, secrets.

    Raises:
        Unavailable: if it does not start again.
    """
    supervisor.stop(PROCESS_NAME)
    start(supervisor, port)


def process(home: Home, port: int) -> ProcessSpec:
    """Return how to run the server."""
    return ProcessSpec(
        name=PROCESS_NAME,
        command=list(COMMAND),
        environment=server_environment(home.path / "aws", port),
        # It writes its state when it ends.
        stop_seconds=30.0,
        tier=Tier.FOUNDATION,
    )


def server_environment(
    directory: Path, port: int, *, host: str = LOOPBACK, bind_host: str = LOOPBACK
) -> dict[str, str]:
    """
    Return the environment of a server that keeps everything below a directory.

    `host` is the name by which clients reach it, `bind_host` the address that it listens on.
    """
    return {
        # The default is every interface.
        "BIND_HOST": bind_host,
        # The host in queue URLs. Without it CloudFormation and GetQueueUrl give different names.
        "MINISTACK_HOST": host,
        "GATEWAY_PORT": str(port),
        "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
        "MINISTACK_REGION": REGION,
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(directory / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(directory / "objects"),
        # Unpacked Lambda archives are left here.
        "TMPDIR": str(directory / "temporary"),
        "LOG_LEVEL": "WARNING",
        # Lambda processes inherit the environment of the server.
        **client_environment(port, host=host),
    }


def answers(port: int) -> bool:
    """Return whether the server is up."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def prepare_directory(directory: Path) -> None:
    """Make the directory of a server, without what an earlier one had unpacked. The server must not run."""
    directory.mkdir(mode=0o700, exist_ok=True)
    temporary = directory / "temporary"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
