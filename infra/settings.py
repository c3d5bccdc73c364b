"""Settings of what is deployed, beside those that the deployed processes read themselves."""

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Source: Amazon CloudWatch Logs API Reference, "PutRetentionPolicy".
LOG_RETENTION_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827)


class InfraSettings(BaseSettings):
    """What `esclusa infra` puts into the templates. The ARNs and ids are of things that are there already."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_INFRA_", frozen=True, extra="ignore")

    code_bucket: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Bucket of the Lambdas' code, and of templates above 51,200 bytes. It is there already.",
    )
    code_file: Path = Field(
        Path("dist/lambdas.zip"),
        description="What `make lambdas` built. Its key in the bucket is its SHA-256: other code is another key.",
    )
    kms_key_arn: str | None = Field(
        None,
        pattern=r"^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$",
        description="ARN of the key of the buckets. Absent: the shared stack makes one.",
    )
    noncurrent_retention_days: PositiveInt = Field(
        30, description="Days that buckets keep what was deleted in `final/`; elsewhere it is one."
    )
    transient_retention_days: int = Field(
        7, ge=5, description="Days after which leftovers in `tmp/` go. Above the four that messages are kept."
    )
    quarantine_retention_days: PositiveInt = Field(
        90, description="Days after which what lies in `quarantine/` goes. The sweeper is told the same."
    )
    log_retention_days: int = Field(30, description="Days that the Lambdas' logs are kept.")
    function_timeout_seconds: int = Field(
        60,
        ge=1,
        le=900,
        description="A Lambda is stopped after so long; its queue hides messages six times as long.",
    )
    function_memory_mb: int = Field(512, ge=128, le=10240, description="Memory of a Lambda.")
    max_concurrency: int = Field(
        10, ge=2, le=1000, description="Calls of one Lambda at the same time, by its queue."
    )
    reserve_concurrency: bool = Field(
        True,
        description="Whether each Lambda has its concurrency to itself. A new account may have too little to share out.",
    )
    max_receive_count: int = Field(
        15,
        ge=1,
        le=1000,
        description="A message that was received so often goes to the dead letters. Above ESCLUSA_MAX_ATTEMPTS: it is the "
        "ledger that gives a batch up.",
    )
    oldest_message_alarm_seconds: PositiveInt = Field(
        3600, description="An alarm of CloudWatch, if the oldest message of a queue is older."
    )
    lambda_subnet_ids: tuple[str, ...] = Field(
        (),
        description="JSON list: subnets from which the Lambdas reach ledger and AWS. Empty: no network of yours.",
    )
    lambda_security_group_ids: tuple[str, ...] = Field(
        (), description="JSON list: security groups of the Lambdas in these subnets."
    )
    oidc_provider_arn: str | None = Field(
        None,
        pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/.+$",
        description="Identity provider of a Kubernetes cluster whose service accounts take the services' roles.",
    )
    service_account_namespace: str = Field(
        "esclusa", description="Kubernetes namespace of these service accounts, each named as its role."
    )
    redshift_arn: str | None = Field(
        None,
        pattern=r"^arn:[a-z-]+:(redshift-serverless:[a-z0-9-]+:[0-9]{12}:workgroup/|redshift:[a-z0-9-]+:[0-9]{12}:cluster:)[A-Za-z0-9-]+$",
        description="ARN of the workgroup or cluster that the publisher's settings name; of a workgroup it does not follow from "
        "its name.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.log_retention_days not in LOG_RETENTION_DAYS:
            raise ValueError(
                f"ESCLUSA_INFRA_LOG_RETENTION_DAYS: expected one of {', '.join(map(str, LOG_RETENTION_DAYS))}, "
                f"found {self.log_retention_days}"
            )
        if bool(self.lambda_subnet_ids) != bool(self.lambda_security_group_ids):
            raise ValueError(
                "expected ESCLUSA_INFRA_LAMBDA_SUBNET_IDS and ESCLUSA_INFRA_LAMBDA_SECURITY_GROUP_IDS together, "
                "found only one of them"
            )
        return self
