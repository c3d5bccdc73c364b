"""What every process of the fleet is connected to, put together in one place from its settings."""

from contextlib import closing
from dataclasses import dataclass
from typing import Self

from shared.certificates import trust_authorities
from shared.ledger.postgres import PostgresLedger
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from shared.ports import Ledger, ObjectStore, QueueSender, SecretStore
from shared.queues.sqs import SqsSender, make_sqs_client
from shared.secrets.resolver import SecretResolver
from shared.settings import FleetSettings


def require_ledger(settings: FleetSettings) -> None:
    """
    Make sure, before a process begins, that the tables of its ledger are those it works with.

    Raises:
        ConfigurationError: if they are not; the message says what to do.
        SecretNotFound: if the reference to the ledger's DSN, or to certificates, leads nowhere.
        Unavailable: if the ledger, or the store behind that reference, does not answer.
    """
    with (
        closing(_ledger(settings, SecretResolver(region=settings.region))) as ledger,
        ledger.transaction() as tx,
    ):
        tx.now()


def _ledger(settings: FleetSettings, secrets: SecretStore) -> PostgresLedger:
    trust_authorities(secrets, settings.ca_certificates)
    return PostgresLedger(secrets.resolve(settings.ledger_dsn))


@dataclass(frozen=True, slots=True)
class Fleet:
    """The ports of a process. Connections are made at first use."""

    settings: FleetSettings
    ledger: Ledger
    store: ObjectStore
    sender: QueueSender
    secrets: SecretStore

    @classmethod
    def connect(cls, settings: FleetSettings) -> Self:
        """
        Put the adapters together.

        Raises:
            ConfigurationError: if what is said to be certificates is none.
            SecretNotFound: if the reference to the ledger's DSN, or to certificates, leads nowhere.
            Unavailable: if the store behind that reference does not answer.
        """
        secrets = SecretResolver(region=settings.region)
        return cls(
            settings=settings,
            ledger=_ledger(settings, secrets),
            store=S3ObjectStore(make_s3_client(settings.region)),
            sender=SqsSender(make_sqs_client(settings.region), settings.queue_urls),
            secrets=secrets,
        )
