"""The command that tells Prometheus what ledger and queues say: metrics."""

import signal
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from cli.context import JsonOption, connections_of, settings_named
from cli.output import print_json
from shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from cli.exporter import Exporter
    from shared.telemetry.metrics import Sample

log = structlog.get_logger()


def metrics(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Port to listen on; else ESCLUSA_METRICS_PORT."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Address to listen on; else ESCLUSA_METRICS_ADDRESS."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print what Prometheus would be told now, and end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Tell Prometheus what ledger and queues say, at /metrics, until it is stopped; or print it once.

    One process for a fleet is enough. Ledger and queues are read when somebody asks, every 15 seconds at most
    (ESCLUSA_METRICS_READ_EVERY_SECONDS). docs/metrics.md lists every metric. --json needs --once.
    """
    from cli.exporter import Exporter
    from shared.telemetry.settings import ExporterSettings

    if as_json and not once:
        raise typer.BadParameter("expected --once beside it", param_hint="--json")
    with settings_named():
        settings = ExporterSettings()
    connections = connections_of(context)
    fleet = connections.fleet()
    exporter = Exporter(
        fleet.ledger,
        connections.queues(fleet),
        read_every=timedelta(seconds=settings.metrics_read_every_seconds),
        table_limit=settings.metrics_table_limit,
    )
    if once:
        _print_once(exporter, as_json=as_json)
    else:
        _serve(
            exporter,
            address=address or settings.metrics_address,
            port=settings.metrics_port if port is None else port,
        )


def _print_once(exporter: "Exporter", *, as_json: bool) -> None:
    samples = exporter.samples()
    if as_json:
        print_json({"metrics": [_document(sample) for sample in samples], "failures": exporter.failures()})
    else:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(exporter)
        typer.echo(generate_latest(registry).decode(), nl=False)
    if failed := [part for part, count in exporter.failures().items() if count]:
        raise Unavailable(f"not read: {', '.join(failed)}; `esclusa --verbose metrics --once` tells why")


def _document(sample: "Sample") -> dict[str, object]:
    from shared.telemetry.prometheus import exposed_name

    return {
        "name": exposed_name(sample.metric),
        "type": sample.metric.type,
        "unit": sample.metric.unit,
        "labels": dict(sample.labels),
        "value": sample.value,
    }


def _serve(exporter: "Exporter", *, address: str, port: int) -> None:
    from prometheus_client import CollectorRegistry

    from shared.telemetry.logs import configure_logging
    from shared.telemetry.prometheus import ScrapeServer

    if port == 0:
        raise ConfigurationError(
            "ESCLUSA_METRICS_PORT: expected a port, found 0, which is for workers; give --port"
        )
    # A service now, and not a command that somebody waits for: what went wrong stands in its log.
    configure_logging("exporter", stream=sys.stderr)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter)
    try:
        server = ScrapeServer(registry, address=address, port=port)
    except OSError as error:
        raise ConfigurationError(
            f"{address}, port {port}: expected an address of this machine and a free port, found: {error}"
        ) from error
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    log.info("exporter_listening", address=address, port=server.port)
    stopped.wait()
    server.close()
