"""Settings that every process of the fleet shares, read once, from the environment."""

from datetime import timedelta
from enum import StrEnum
from typing import Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.domain.retries import RetryPolicy
from shared.errors import ConfigurationError
from shared.ports import QueueName

#: The longest that SQS keeps a message hidden after one receive.
#: Source: Amazon SQS Developer Guide, "Amazon SQS visibility timeout".
MAX_VISIBILITY_SECONDS = 12 * 3600


def bucket_name(prefix: str, source: str) -> str:
    """Return the bucket of a source. Bucket names know no underscore."""
    return f"{prefix}-{source.replace('_', '-')}"


class Deployment(StrEnum):
    """Where the fleet runs."""

    #: On one machine against a local AWS server. Refuses to start without an endpoint.
    LOCAL = "local"
    #: In an AWS account.
    AWS = "aws"


class BackoffSettings(BaseSettings):
    """How long what failed waits until it is tried again."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    backoff_base_seconds: PositiveInt = Field(
        10,
        description="A message whose task failed comes back after so long, after its second failure "
        "after twice that, and so on. Until then no other message begins the next attempt either.",
    )
    backoff_max_seconds: PositiveInt = Field(
        900, le=MAX_VISIBILITY_SECONDS, description="The longest that a failed message is put back for."
    )


class FleetSettings(BackoffSettings):
    """What a process has to know to find ledger, buckets and queues."""

    deployment: Deployment = Field(Deployment.AWS, description="`local` never talks to a real account.")
    region: str = Field("eu-west-1", description="AWS region of buckets and queues.")
    ledger_dsn: str = Field(
        description="Reference to the control database's DSN: env:, file:, secretsmanager: or ssm:."
    )
    ca_certificates: str = Field(
        "",
        description="Reference to the certificates (PEM) of the authorities that servers of PostgreSQL are checked against, "
        "where their DSN says `sslmode=verify-full` or `verify-ca`: env:, file:, secretsmanager: or ssm:.",
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

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often a stage of a batch is tried, and after what pauses."""
        return RetryPolicy(
            self.max_attempts,
            first_pause=timedelta(seconds=self.backoff_base_seconds),
            longest_pause=timedelta(seconds=self.backoff_max_seconds),
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
        """Return the bucket of a source."""
        return bucket_name(self.bucket_prefix, source)

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
