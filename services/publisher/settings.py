"""Settings of the publisher."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PublisherSettings(BaseSettings):
    """Where the publisher publishes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    warehouse_dsn: str = Field(
        description="Reference to the warehouse's DSN: env:, file:, secretsmanager: or ssm:."
    )
