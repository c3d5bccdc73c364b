"""What the local AWS server holds once it is provisioned: secrets, and the stacks of CloudFormation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.deploy import deploy_source_stack, deploy_stack, outputs_of
from infra.names import logical_id, queue_name, stack_name
from infra.plan import InlineCode, Plan
from infra.templates import bucket_template, shared_template, source_template
from infra.uploads import uploading_to
from local.aws import ACCOUNT_ID
from local.stack import Addresses
from services.publisher.catalog import database_name
from shared.catalog import Source
from shared.ports import QueueName
from shared.settings import bucket_name

PREFIX = "esclusa-local"
#: Of templates that are too large to be sent as they are.
TEMPLATE_BUCKET = f"{PREFIX}-templates"
LEDGER_SECRET = "esclusa/ledger"  # noqa: S105  the name of a secret
WAREHOUSE_SECRET = "esclusa/warehouse"  # noqa: S105

#: A dead worker's batch is taken over after so long. Short: people watch.
CLAIM_LEASE = timedelta(seconds=15)
#: A Lambda is given up after so long, with its start.
FUNCTION_TIMEOUT = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The settings of every process that works against the provisioned stack."""

    environment: dict[str, str] = field(repr=False)
    #: Whether anything had to be created or updated.
    has_changed: bool


def local_plan(
    *, claim_lease: timedelta = CLAIM_LEASE, function_timeout: timedelta = FUNCTION_TIMEOUT
) -> Plan:
    """Return what is deployed locally: the same templates as in AWS, with times for people who watch."""
    return Plan(
        prefix=PREFIX,
        ledger_dsn=f"secretsmanager:{LEDGER_SECRET}#dsn",
        warehouse_dsn=f"secretsmanager:{WAREHOUSE_SECRET}#dsn",
        code=InlineCode(),
        deployment="local",
        worker_visibility_timeout_seconds=30,
        function_timeout_seconds=int(function_timeout.total_seconds()),
        max_concurrency=2,
        # The local server keeps every version for ever.
        noncurrent_retention_days=None,
        # It has the concurrency of its processes, and no share of an account to give away.
        is_concurrency_reserved=False,
        environment=(
            ("ESCLUSA_CLAIM_LEASE_SECONDS", str(int(claim_lease.total_seconds()))),
            ("ESCLUSA_SWEEP_WAKE_AFTER_SECONDS", "10"),
            ("ESCLUSA_SWEEP_CLEAN_AFTER_SECONDS", "10"),
            ("ESCLUSA_SWEEP_STRAY_AFTER_SECONDS", "300"),
            ("ESCLUSA_SWEEP_UPLOAD_AFTER_SECONDS", "300"),
            ("ESCLUSA_SWEEP_FOREIGN_AFTER_SECONDS", "300"),
        ),
    )


def provision(
    addresses: Addresses,
    sources: Sequence[Source],
    *,
    claim_lease: timedelta = CLAIM_LEASE,
    function_timeout: timedelta = FUNCTION_TIMEOUT,
) -> Provisioned:
    """
    Bring secrets and stacks to what the sources need. Repeating it is no error.

    Raises:
        ConfigurationError: if CloudFormation refuses a stack.
    """
    clients = _Clients(addresses)
    _put_secrets(addresses, clients)
    plan = local_plan(claim_lease=claim_lease, function_timeout=function_timeout)
    cloudformation = clients.make("cloudformation")
    origins = [source.tables[0].origin for source in sources]
    shared = stack_name(PREFIX)
    _make_template_bucket(clients)
    upload = uploading_to(clients.make("s3"), TEMPLATE_BUCKET)
    changes = [deploy_stack(cloudformation, shared, shared_template(plan, origins), upload=upload)]
    changes += [_deploy_source(plan, source, cloudformation, clients) for source in sources]
    urls = _queue_urls(cloudformation, shared)
    environment = fleet_environment(addresses.aws_environment, urls, claim_lease=claim_lease)
    return Provisioned(environment, has_changed=any(changes))


def queue_urls_of(endpoint_url: str) -> dict[str, str]:
    """Return the URLs that a local AWS server at an endpoint gives to the queues."""
    return {str(queue): f"{endpoint_url}/{ACCOUNT_ID}/{queue_name(PREFIX, queue)}" for queue in QueueName}


def bucket_of(source: str) -> str:
    """Return the bucket of a source in the embedded stack."""
    return bucket_name(PREFIX, source)


def _deploy_source(plan: Plan, source: Source, cloudformation: Any, clients: "_Clients") -> bool:
    bucket = bucket_of(source.name)
    return deploy_source_stack(
        cloudformation,
        stack_name(PREFIX, source.name),
        source_template(
            plan, source=source.name, bucket=bucket, database=database_name(source.name, prefix=PREFIX)
        ),
        bucket=bucket,
        bucket_template=bucket_template(bucket=bucket),
        bucket_exists=lambda: _bucket_exists(clients.make("s3"), bucket),
    )


def _make_template_bucket(clients: "_Clients") -> None:
    client = clients.make("s3")
    if not _bucket_exists(client, TEMPLATE_BUCKET):
        region = client.meta.region_name
        client.create_bucket(Bucket=TEMPLATE_BUCKET, CreateBucketConfiguration={"LocationConstraint": region})


def _bucket_exists(client: Any, bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError:
        return False
    return True


class _Clients:
    """Clients of the local AWS server, whatever the environment of this process says."""

    def __init__(self, addresses: Addresses) -> None:
        self._environment = addresses.aws_environment

    def make(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,  # type: ignore[call-overload]
            endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            region_name=self._environment["AWS_REGION"],
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 3}),
        )


def _put_secrets(addresses: Addresses, clients: _Clients) -> None:
    client = clients.make("secretsmanager")
    secrets = {
        LEDGER_SECRET: {"dsn": addresses.control_dsn},
        WAREHOUSE_SECRET: {"dsn": addresses.warehouse_dsn},
        "esclusa/shop": {"dsn": addresses.shop_reader_dsn},
        "esclusa/crm": {"base_url": addresses.crm_url, "token": addresses.crm_token},
        "esclusa/mask": addresses.mask_keys,
    }
    for name, value in secrets.items():
        text = json.dumps(value)
        try:
            client.create_secret(Name=name, SecretString=text)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=name, SecretString=text)


def _queue_urls(cloudformation: Any, shared_stack: str) -> dict[str, str]:
    outputs = outputs_of(cloudformation, shared_stack)
    return {str(queue): outputs[logical_id(queue, "queue", "url")] for queue in QueueName}


def fleet_environment(
    aws_environment: Mapping[str, str],
    queue_urls: Mapping[str, str],
    *,
    claim_lease: timedelta = CLAIM_LEASE,
) -> dict[str, str]:
    """Return the settings of every process that works against a local AWS server. References, no secrets."""
    return {
        **aws_environment,
        "ESCLUSA_DEPLOYMENT": "local",
        "ESCLUSA_REGION": aws_environment["AWS_REGION"],
        "ESCLUSA_LEDGER_DSN": f"secretsmanager:{LEDGER_SECRET}#dsn",
        "ESCLUSA_WAREHOUSE_DSN": f"secretsmanager:{WAREHOUSE_SECRET}#dsn",
        "ESCLUSA_BUCKET_PREFIX": PREFIX,
        "ESCLUSA_QUEUE_URLS": json.dumps(queue_urls),
        "ESCLUSA_CLAIM_LEASE_SECONDS": str(int(claim_lease.total_seconds())),
        "ESCLUSA_WAIT_TIME_SECONDS": "2",
        "ESCLUSA_VISIBILITY_TIMEOUT_SECONDS": "30",
        "ESCLUSA_BACKOFF_BASE_SECONDS": "2",
        "ESCLUSA_SOFT_SHUTDOWN_SECONDS": "5",
    }
