"""Settings of the extractor."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ExtractorSettings(BaseSettings):
    """How the extractor writes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    part_size_in_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="A CSV file is closed, and the next begun, at this size.",
    )
