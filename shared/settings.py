"""Settings that every process of the fleet shares, read once, from the environment."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.ports import QueueName


class Deployment(StrEnum):
    """Where the fleet runs."""

    #: On one machine against a local AWS server. Refuses to start without an endpoint.
    LOCAL = "local"
    #: In an AWS account.
    AWS = "aws"


class FleetSettings(BaseSettings):
    """What a process has to know to find ledger, buckets and queues."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    deployment: Deployment = Field(Deployment.AWS, description="`local` never talks to a real account.")
    region: str = Field("eu-west-1", description="AWS region of buckets and queues.")
    ledger_dsn: str = Field(
        description="Reference to the control database's DSN: env:, file:, secretsmanager: or ssm:."
    )
    bucket_prefix: str = Field("esclusa", description="A source's bucket is this, a dash and its name.")
    queue_urls: dict[QueueName, str] = Field(
        default_factory=dict, description="JSON object: URL of each queue the process sends to."
    )
    claim_lease_seconds: int = Field(
        120, ge=2, description="A batch whose worker gave no sign of life for so long may be taken over."
    )
    max_attempts: int = Field(
        12,
        ge=1,
        description="A stage of a batch is tried so often before it fails. With the pauses between attempts "
        "(ESCLUSA_BACKOFF_BASE_SECONDS, doubled up to ESCLUSA_BACKOFF_MAX_SECONDS) twelve last over an hour.",
    )
    aws_endpoint_url: str = Field(
        "", validation_alias="AWS_ENDPOINT_URL", description="The local AWS server; unset in AWS."
    )

    @model_validator(mode="after")
    def _local_needs_an_endpoint(self) -> Self:
        if self.deployment is Deployment.LOCAL and not self.aws_endpoint_url:
            raise ValueError(
                "ESCLUSA_DEPLOYMENT is local, but AWS_ENDPOINT_URL is not set: expected the URL of the local "
                "AWS server, so that no real account is reached by accident"
            )
        return self

    def bucket(self, source: str) -> str:
        """Return the bucket of a source. Bucket names know no underscore."""
        return f"{self.bucket_prefix}-{source.replace('_', '-')}"

    def queue_url(self, queue: QueueName) -> str:
        """
        Return the URL of a queue that this process serves.

        Raises:
            ConfigurationError: if it is not set.
        """
        if queue not in self.queue_urls:
            raise ConfigurationError(
                f"ESCLUSA_QUEUE_URLS: expected the URL of the queue {queue!r}, "
                f"found only {', '.join(self.queue_urls) or 'none'}"
            )
        return self.queue_urls[queue]
