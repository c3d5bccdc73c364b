"""Settings of the extractor."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.extractor.parts import DEFAULT_PART_SIZE_IN_BYTES
from shared.domain.batches import Stage
from shared.lifecycle import QUEUE_STAGES
from shared.ports import QueueName


class ExtractorSettings(BaseSettings):
    """How the extractor writes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    extract_queue: QueueName = Field(
        QueueName.EXTRACT,
        description="The queue that this extractor takes from: extract, or backfill for parts of first loads and for "
        "backfills. Run at least one of each.",
    )
    part_size_in_bytes: int = Field(
        DEFAULT_PART_SIZE_IN_BYTES,
        ge=1024 * 1024,
        le=256 * 1024 * 1024,
        description="A CSV file is closed, and the next begun, at this size. A process holds up to four of them in "
        "memory.",
    )

    @model_validator(mode="after")
    def _take_extracts_only(self) -> Self:
        if QUEUE_STAGES.get(self.extract_queue) is not Stage.EXTRACT:
            raise ValueError(f"extract_queue: expected extract or backfill, found {self.extract_queue}")
        return self
