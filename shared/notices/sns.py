"""Notices by a topic of SNS, which hands them on to e-mail, queues, functions and other people's webhooks."""

from datetime import timedelta
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.deadline import within
from shared.errors import Unavailable
from shared.notices.document import headline, notice_document
from shared.ports import Notice

PATIENCE: Final = timedelta(seconds=8)


def make_sns_client(topic_arn: str) -> Any:
    """Return a client in the topic's own region, whose calls end in bounded time."""
    return boto3.session.Session().client(
        "sns",
        region_name=topic_arn.split(":")[3],
        config=Config(
            connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}
        ),
    )


class SnsTopic:
    """`Notifier` that publishes to a topic."""

    def __init__(self, client: Any, topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def notify(self, notice: Notice) -> None:
        """Deliver a notice to the topic; see `Notifier`."""
        within(PATIENCE, lambda: self._publish(notice), what=f"topic {self._topic_arn}")

    def _publish(self, notice: Notice) -> None:
        try:
            self._client.publish(
                TopicArn=self._topic_arn, Subject=headline(notice), Message=notice_document(notice)
            )
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"topic {self._topic_arn}: {error}") from error
