"""Settings of the sweeper."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lambdas.sweeper.sweep import SweepLimits


class SweeperSettings(BaseSettings):
    """How patient the sweeper is."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    sweep_wake_after_seconds: int = Field(
        60, ge=1, description="A batch that nobody moved for so long is woken by another message."
    )
    sweep_stray_after_seconds: int = Field(
        7200,
        ge=1,
        description="Objects and uploads that the ledger does not name are left alone for so long.",
    )
    sweep_step_limit: int = Field(1000, ge=1, description="The most that one step of a sweep handles.")

    def limits(self) -> SweepLimits:
        """Return them as the sweep takes them."""
        return SweepLimits(
            wake_after=timedelta(seconds=self.sweep_wake_after_seconds),
            stray_after=timedelta(seconds=self.sweep_stray_after_seconds),
            step_limit=self.sweep_step_limit,
        )
