"""The Celery app of a worker: its configuration, and why each line of it."""

from collections.abc import Sequence

from celery import Celery
from kombu.entity import Queue

from shared.celery_sqs.logs import ServiceLogging
from shared.celery_sqs.queue import WorkerQueue
from shared.celery_sqs.request import SuccessOnlyRequest
from shared.celery_sqs.settings import WorkerSettings


def make_worker_app(
    name: str, *, queue: WorkerQueue, settings: WorkerSettings, task_modules: Sequence[str]
) -> Celery:
    """
    Return an app that serves one queue. Nothing is connected yet.

    `task_modules` are imported by name in the main process and in each child; see the package's docstring.
    """
    app = Celery(name, log=ServiceLogging, set_as_current=False)
    app.conf.update(
        include=list(task_modules),
        broker_url=f"sqs://{queue.name}",  # for the logs only
        broker_transport="shared.celery_sqs.transport:SqsTransport",
        broker_transport_options={"queue": queue, "settings": settings},
        task_queues=[Queue(queue.name)],  # type: ignore[no-untyped-call]
        task_default_queue=queue.name,
        task_create_missing_queues=False,
        # What the transport hands to Celery is JSON that the transport has written.
        task_serializer="json",
        accept_content=["json"],
        # Nothing but success deletes a message: it is not deleted when its task begins, raises, runs into its
        # time limit or loses its process. What has no setting is in SuccessOnlyRequest
        # and SuccessOnlyConsumer.
        task_acks_late=True,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        task_reject_on_worker_lost=True,
        worker_consumer="shared.celery_sqs.consumer:SuccessOnlyConsumer",
        # The ledger knows how tasks end; there is no other place to ask.
        result_backend=None,
        task_ignore_result=True,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_concurrency=settings.concurrency,
        # As many messages in hand as tasks at work: each receive counts towards the dead letters.
        worker_prefetch_multiplier=1,
        # Polars deadlocks in a forked child of a process that has used it.
        worker_pool_start_method="spawn",
        # How soon the loss of a child is noticed, in seconds.
        worker_lost_wait=2,
        # What a library leaks goes with its process. KiB.
        worker_max_tasks_per_child=200,
        worker_max_memory_per_child=2_000_000,
        task_soft_time_limit=settings.soft_time_limit_seconds,
        task_time_limit=settings.hard_time_limit_seconds,
        worker_redirect_stdouts=False,
        timezone="UTC",
    )
    app.Task.Request = SuccessOnlyRequest
    return app
