"""Settings of the watcher."""

from datetime import timedelta
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.alarms import AlarmLimits
from shared.secrets.reference import parse_reference


class WatcherSettings(BaseSettings):
    """
    From when on the watcher is alarmed, and whom it tells.

    One channel: then an alarm is told or it is not. A topic of SNS hands notices on to as many as one likes.
    """

    # Errors do not show what was found: somebody may have written the URL itself, which is a secret.
    model_config = SettingsConfigDict(
        env_prefix="ESCLUSA_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    alarm_outbox_stuck_after_seconds: int = Field(
        300, ge=1, description="A message that did not leave the outbox for so long raises an alarm."
    )
    alarm_webhook_url: str | None = Field(
        None,
        description="Reference to the URL that notices are posted to: env:, file:, secretsmanager: or ssm:. "
        "https:// only, but for this machine. Absent: no webhook.",
    )
    alarm_webhook_key: str | None = Field(
        None, description="Reference to the key that signs what is posted. Absent: it is not signed."
    )
    alarm_topic_arn: str | None = Field(
        None,
        pattern=r"^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$",
        description="ARN of the topic of SNS that notices are published to. Absent: no topic.",
    )

    @field_validator("alarm_webhook_url", "alarm_webhook_key")
    @classmethod
    def _require_reference(cls, text: str | None) -> str | None:
        if text is not None:
            parse_reference(text)
        return text

    @model_validator(mode="after")
    def _require_one_channel(self) -> Self:
        if self.alarm_webhook_url and self.alarm_topic_arn:
            raise ValueError(
                "expected ESCLUSA_ALARM_WEBHOOK_URL or ESCLUSA_ALARM_TOPIC_ARN, found both; a topic can have an "
                "HTTPS endpoint among its subscribers"
            )
        if self.alarm_webhook_key and not self.alarm_webhook_url:
            raise ValueError(
                "expected ESCLUSA_ALARM_WEBHOOK_URL beside ESCLUSA_ALARM_WEBHOOK_KEY, found none"
            )
        return self

    def limits(self) -> AlarmLimits:
        """Return them as alarms are judged by."""
        return AlarmLimits(outbox_stuck_after=timedelta(seconds=self.alarm_outbox_stuck_after_seconds))
