"""The Lambda of the watcher, called by a schedule."""

from collections.abc import Mapping
from typing import Any

from lambdas.invocation import forget_fleet, warm_fleet
from lambdas.watcher.settings import WatcherSettings
from lambdas.watcher.watch import watch
from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.notices.sns import SnsTopic, make_sns_client
from shared.notices.webhook import Webhook
from shared.ports import Notifier
from shared.queues.sqs import SqsInspector, make_sqs_client


def handle(event: Mapping[str, Any], context: object) -> dict[str, int]:  # noqa: ARG001  Lambda's signature
    """Watch once, and return what changed."""
    fleet = warm_fleet("watcher")
    settings = WatcherSettings()
    try:
        report = watch(
            ledger=fleet.ledger,
            inspector=SqsInspector(make_sqs_client(fleet.settings.region), fleet.settings.queue_urls),
            notifier=_notifier(settings, fleet),
            limits=settings.limits(),
            fleet=fleet.settings.bucket_prefix,
        )
    except Unavailable:
        forget_fleet()
        raise
    return {
        "raised": report.raised_count,
        "resolved": report.resolved_count,
        "told": report.told_count,
        "open": sum(report.open_counts.values()),
    }


def _notifier(settings: WatcherSettings, fleet: Fleet) -> Notifier | None:
    if settings.alarm_webhook_url:
        return Webhook(
            settings.alarm_webhook_url, key_reference=settings.alarm_webhook_key, secrets=fleet.secrets
        )
    if settings.alarm_topic_arn:
        return SnsTopic(make_sns_client(settings.alarm_topic_arn), settings.alarm_topic_arn)
    return None
