"""What `esclusa infra` deploys: a plan from the settings, and the stacks that the source files ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from infra.plan import Plan, RedshiftTarget
    from infra.settings import InfraSettings
    from infra.templates import Template
    from services.publisher.settings import PublisherSettings
    from shared.catalog import Source
    from shared.settings import FleetSettings

#: Settings that the Lambdas share with the workers: what differs from the default is handed on.
_SHARED_WITH_WORKERS = ("claim_lease_seconds", "max_attempts", "backoff_base_seconds", "backoff_max_seconds")


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack as it should be."""

    name: str
    template: "Template"
    #: The source it is of, and its bucket; None for the shared stack.
    source: str | None = None
    bucket: str | None = None


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What is deployed, where, and through which bucket."""

    plan: "Plan"
    region: str
    #: Of the Lambdas' code, and of templates that are too large to be sent as they are.
    bucket: str
    #: The code to upload; None on one machine, where the Lambdas find it on their path.
    code_file: Path | None


def read_blueprint() -> Blueprint:
    """
    Return what the settings decide: those of the embedded stack, or those of a deployment in AWS.

    Raises:
        ConfigurationError: if a setting is missing, wrong, or contradicts another.
    """
    from cli.context import read_settings, settings_named
    from infra.settings import InfraSettings
    from shared.settings import Deployment

    fleet = read_settings()
    if fleet.deployment is Deployment.LOCAL:
        from local.provision import TEMPLATE_BUCKET, local_plan

        lease = timedelta(seconds=fleet.claim_lease_seconds)
        return Blueprint(local_plan(claim_lease=lease), fleet.region, TEMPLATE_BUCKET, code_file=None)
    with settings_named("ESCLUSA_INFRA_"):
        infra = InfraSettings()
    with settings_named():
        plan = _plan(fleet, infra)
    return Blueprint(plan, fleet.region, _code_bucket(infra), infra.code_file)


def _plan(fleet: "FleetSettings", infra: "InfraSettings") -> "Plan":
    from infra.plan import Network, PackagedCode, Plan
    from infra.uploads import code_key
    from lambdas.watcher.settings import WatcherSettings
    from services.publisher.settings import PublisherSettings, WarehouseKind
    from shared.celery_sqs.settings import WorkerSettings

    watcher, publisher = WatcherSettings(), PublisherSettings()
    _require_kept_in_aws("ESCLUSA_LEDGER_DSN", fleet.ledger_dsn)
    if fleet.ca_certificates:
        _require_kept_in_aws("ESCLUSA_CA_CERTIFICATES", fleet.ca_certificates)
    if publisher.warehouse is WarehouseKind.POSTGRES:
        _require_kept_in_aws("ESCLUSA_WAREHOUSE_DSN", publisher.warehouse_dsn)
    if infra.max_receive_count <= fleet.max_attempts:
        raise ConfigurationError(
            f"ESCLUSA_INFRA_MAX_RECEIVE_COUNT: expected more than ESCLUSA_MAX_ATTEMPTS ({fleet.max_attempts}), found "
            f"{infra.max_receive_count}: messages would die before the ledger gives their batches up"
        )
    return Plan(
        prefix=fleet.bucket_prefix,
        ledger_dsn=fleet.ledger_dsn,
        ca_certificates=fleet.ca_certificates,
        warehouse_dsn=publisher.warehouse_dsn,
        code=PackagedCode(_code_bucket(infra), code_key(infra.code_file)),
        kms_key_arn=infra.kms_key_arn,
        noncurrent_retention_days=infra.noncurrent_retention_days,
        worker_visibility_timeout_seconds=WorkerSettings().visibility_timeout_seconds,
        function_timeout_seconds=infra.function_timeout_seconds,
        function_memory_mb=infra.function_memory_mb,
        log_retention_days=infra.log_retention_days,
        max_receive_count=infra.max_receive_count,
        max_concurrency=infra.max_concurrency,
        is_concurrency_reserved=infra.reserve_concurrency,
        transient_retention_days=infra.transient_retention_days,
        quarantine_retention_days=infra.quarantine_retention_days,
        oldest_message_alarm_seconds=infra.oldest_message_alarm_seconds,
        network=Network(infra.lambda_subnet_ids, infra.lambda_security_group_ids)
        if infra.lambda_subnet_ids
        else None,
        oidc_provider_arn=infra.oidc_provider_arn,
        service_account_namespace=infra.service_account_namespace,
        redshift=_redshift(infra, publisher) if publisher.warehouse is WarehouseKind.REDSHIFT else None,
        alarm_topic_arn=watcher.alarm_topic_arn,
        alarm_webhook_url=watcher.alarm_webhook_url,
        alarm_webhook_key=watcher.alarm_webhook_key,
        environment=tuple(
            (f"ESCLUSA_{name.upper()}", str(getattr(fleet, name)))
            for name in _SHARED_WITH_WORKERS
            if getattr(fleet, name) != type(fleet).model_fields[name].default
        ),
    )


def _redshift(infra: "InfraSettings", publisher: "PublisherSettings") -> "RedshiftTarget":
    from infra.plan import RedshiftTarget

    target = RedshiftTarget(
        infra.redshift_arn or "",
        publisher.redshift_database,
        secret_arn=publisher.redshift_secret_arn,
        db_user=publisher.redshift_db_user,
    )
    if not target.arn or target.is_serverless != bool(publisher.redshift_workgroup):
        kind = "workgroup" if publisher.redshift_workgroup else "cluster"
        raise ConfigurationError(
            f"ESCLUSA_INFRA_REDSHIFT_ARN: expected the ARN of the {kind} that the publisher's settings name, found "
            f"{'that of something else' if target.arn else 'nothing'}"
        )
    return target


def _require_kept_in_aws(variable: str, text: str) -> None:
    """Check that a Lambda can follow a reference: it has nothing but what AWS keeps, and templates hold no secret."""
    from shared.secrets.reference import SecretScheme, parse_reference

    try:
        reference = parse_reference(text)
    except ValueError as error:
        raise ConfigurationError(f"{variable}: {error}") from None
    if reference.scheme not in {SecretScheme.SECRETS_MANAGER, SecretScheme.SSM}:
        raise ConfigurationError(
            f"{variable}: expected a reference that roles in AWS can follow, secretsmanager:NAME#FIELD or ssm:NAME, found "
            f"one to {reference.scheme}:"
        )


def _code_bucket(infra: "InfraSettings") -> str:
    if infra.code_bucket is None:
        raise ConfigurationError(
            "ESCLUSA_INFRA_CODE_BUCKET: expected the bucket of the Lambdas' code, found nothing; make one, without public "
            "access, and name it"
        )
    return infra.code_bucket


def stacks_of(plan: "Plan", sources: "Sequence[Source]") -> list[Stack]:
    """Return the stacks of the fleet, the shared one first: the others stand on it."""
    from infra.names import stack_name
    from infra.templates import shared_template, source_template
    from services.publisher.catalog import database_name
    from shared.settings import bucket_name

    origins = [source.tables[0].origin for source in sources]
    shared = Stack(stack_name(plan.prefix), shared_template(plan, origins))
    return [
        shared,
        *(
            Stack(
                stack_name(plan.prefix, source.name),
                source_template(
                    plan,
                    source=source.name,
                    bucket=bucket_name(plan.prefix, source.name),
                    database=database_name(source.name, prefix=plan.prefix),
                ),
                source=source.name,
                bucket=bucket_name(plan.prefix, source.name),
            )
            for source in sources
        ),
    ]


def read_all_sources(directory: Path) -> "Sequence[Source]":
    """
    Return every source, for the shared stack holds what all of them need.

    Raises:
        ConfigurationError: if a file has mistakes.
    """
    from shared.catalog import SourceFilesInvalid, read_sources

    catalog = read_sources(directory)
    if catalog.problems:
        raise SourceFilesInvalid(catalog.problems)
    return catalog.sources
