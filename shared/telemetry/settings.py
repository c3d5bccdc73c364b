"""Settings of who tells metrics to Prometheus."""

from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class MetricsSettings(BaseSettings):
    """Where a process tells its metrics."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    metrics_port: int = Field(
        9464, ge=0, le=65535, description="Port of `/metrics`, by HTTP; 0: no metrics are kept or told."
    )
    metrics_address: str = Field(
        "0.0.0.0",  # noqa: S104  of a container; whoever runs it decides who reaches it
        min_length=1,
        description="Address that `/metrics` listens on; by default every one of the container. Nobody is asked for a "
        "password, and nothing that is told is worth one; let only Prometheus reach it all the same.",
    )
    metrics_directory: Path | None = Field(
        None,
        description="Directory in which a worker makes one for the counts of its processes, some 200 KB for each; it has "
        "to be writable, best a memory file system. Absent: where temporary files go.",
    )


class ExporterSettings(MetricsSettings):
    """How `esclusa metrics` reads."""

    metrics_read_every_seconds: PositiveInt = Field(
        15, description="Ledger and queues are read no more often than this, however often somebody asks."
    )
    metrics_table_limit: PositiveInt = Field(
        1000, description="So many tables at most are told apart; how many were left out is told."
    )
