"""The publisher, wired: `python -m services.publisher.app` starts a worker."""

import sys
from dataclasses import dataclass
from functools import cache, partial

from services.publisher.catalog import LakeCatalog
from services.publisher.glue import GlueCatalog, make_glue_client
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from services.publisher.redshift.data_api import DataApi, make_data_client
from services.publisher.redshift.load import Access
from services.publisher.redshift.warehouse import RedshiftWarehouse
from services.publisher.settings import PublisherSettings, WarehouseKind
from services.publisher.warehouse import Warehouse
from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, run_worker
from shared.fleet import Fleet, require_ledger
from shared.lifecycle import StageResult
from shared.ports import QueueName
from shared.settings import FleetSettings
from shared.stage import Assignment
from shared.telemetry.logs import configure_logging


@dataclass(frozen=True, slots=True)
class Publisher:
    """What one process publishes to."""

    fleet: Fleet
    warehouse: Warehouse
    catalog: LakeCatalog

    def publish(self, assignment: Assignment) -> StageResult:
        """Make the committed files of a batch visible to analysts."""
        return publish(assignment, warehouse=self.warehouse, catalog=self.catalog)


def connect_warehouse(fleet: Fleet) -> Warehouse:
    """
    Return the warehouse that the settings name.

    Raises:
        SecretNotFound: if the reference to its DSN leads nowhere.
    """
    settings = PublisherSettings()
    if settings.warehouse is WarehouseKind.REDSHIFT:
        return connect_redshift(fleet, settings)
    return PostgresWarehouse(
        fleet.secrets.resolve(settings.warehouse_dsn),
        store=fleet.store,
        analysts_role=settings.warehouse_analysts_role,
    )


def connect_redshift(fleet: Fleet, settings: PublisherSettings) -> RedshiftWarehouse:
    """Return the warehouse in Redshift. It is spoken to at first use."""
    client = make_data_client(fleet.settings.region)
    api = DataApi(client, settings.redshift_place, timeout_seconds=settings.redshift_timeout_seconds)
    return RedshiftWarehouse(
        Access(
            api,
            fleet.store,
            role_arn=settings.redshift_copy_role_arn,
            analysts_role=settings.warehouse_analysts_role,
        )
    )


def connect_catalog(fleet: Fleet) -> LakeCatalog:
    """Return the catalog of the lake."""
    return GlueCatalog(make_glue_client(fleet.settings.region), prefix=fleet.settings.bucket_prefix)


@cache
def wired_publisher() -> Publisher:
    """Return the publisher of this process, put together at its first task."""
    fleet = Fleet.connect(FleetSettings())
    return Publisher(fleet, connect_warehouse(fleet), connect_catalog(fleet))


def main() -> int:
    """Serve the publish queue until SIGTERM."""
    configure_logging("publisher")
    fleet = FleetSettings()
    app = make_worker_app(
        "publisher",
        queue=WorkerQueue(QueueName.PUBLISH, fleet.queue_url(QueueName.PUBLISH)),
        settings=WorkerSettings.beside(fleet),
        task_modules=["services.publisher.tasks"],
    )
    return run_worker(app, max_attempts=fleet.max_attempts, require_ledger=partial(require_ledger, fleet))


if __name__ == "__main__":
    sys.exit(main())
