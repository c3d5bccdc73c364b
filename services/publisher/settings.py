"""Settings of the publisher."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PublisherSettings(BaseSettings):
    """Where the publisher publishes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    warehouse_dsn: str = Field(
        description="Reference to the warehouse's DSN: env:, file:, secretsmanager: or ssm:."
    )
    warehouse_analysts_role: str = Field(
        "",
        description="Role of the warehouse that may read every source's tables, also those to come; empty grants "
        "nothing by itself.",
    )
