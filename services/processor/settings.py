"""Settings of the processor."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessorSettings(BaseSettings):
    """How the processor writes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    # Source: Amazon Redshift Developer Guide, "Creating data files for queries in Amazon Redshift Spectrum".
    target_file_size_in_bytes: int = Field(
        128 * 1024 * 1024, ge=1024 * 1024, description="Parquet files are about this large at most."
    )
