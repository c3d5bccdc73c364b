"""Settings of the sweeper."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lambdas.sweeper.limits import SweepLimits


class SweeperSettings(BaseSettings):
    """How patient the sweeper is, and how much it may do."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    sweep_wake_after_seconds: int = Field(
        60, ge=1, description="A batch that nobody moved for so long is woken by another message."
    )
    sweep_clean_after_seconds: int = Field(
        60,
        ge=1,
        description="A batch whose copies may go since so long, and still lie there, is sent to the cleaner again.",
    )
    sweep_stray_after_seconds: int = Field(
        7200, ge=1, description="Objects that an attempt left which ended are left alone for so long."
    )
    sweep_upload_after_seconds: int = Field(
        7200, ge=1, description="Uploads that nobody will complete are left alone for so long."
    )
    sweep_foreign_after_seconds: int = Field(
        7200,
        ge=1,
        description="Objects that nobody of ours wrote are left alone for so long, unless a gate sees them first.",
    )
    sweep_quarantine_kept_seconds: int = Field(
        90 * 24 * 3600,
        ge=1,
        description="The buckets' rule deletes what lies in `quarantine/` after so long; the sweeper records it then.",
    )
    sweep_step_limit: int = Field(
        1000,
        ge=1,
        description="The most batches, leases or files that one step of a sweep takes from the ledger.",
    )
    sweep_delete_limit: int = Field(
        1000,
        ge=0,
        description="The most objects and uploads that one run deletes, aborts or has set aside. What is above it "
        "stays, and the log says `sweep_delete_limit_reached`: a sudden mass is the sign of a wrong ledger.",
    )

    def limits(self) -> SweepLimits:
        """Return them as the sweep takes them."""
        return SweepLimits(
            wake_after=timedelta(seconds=self.sweep_wake_after_seconds),
            clean_after=timedelta(seconds=self.sweep_clean_after_seconds),
            stray_after=timedelta(seconds=self.sweep_stray_after_seconds),
            upload_after=timedelta(seconds=self.sweep_upload_after_seconds),
            foreign_after=timedelta(seconds=self.sweep_foreign_after_seconds),
            quarantine_kept=timedelta(seconds=self.sweep_quarantine_kept_seconds),
            step_limit=self.sweep_step_limit,
            delete_limit=self.sweep_delete_limit,
        )
