"""
What EventBridge and cron do elsewhere: calls the sweeper Lambda every few seconds.

`python -m local.scheduler` runs until SIGTERM. An AWS server that is away is waited for.
"""

import itertools
import json
import os
import signal
import sys
import threading

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.names import function_name
from infra.plan import SWEEPER
from shared.liveness import show_life
from shared.settings import FleetSettings
from shared.telemetry.logs import configure_logging

log = structlog.get_logger()

SWEEP_EVERY_SECONDS = 5.0
#: Every how manieth sweep also searches `final/` and `quarantine/`.
DEEP_EVERY = 12


def main() -> int:
    """Sweep until told to stop."""
    configure_logging("scheduler")
    settings = FleetSettings()
    client = boto3.session.Session().client(
        "lambda",
        region_name=settings.region,
        config=Config(connect_timeout=3, read_timeout=60, retries={"total_max_attempts": 1}),
    )
    name = function_name(settings.bucket_prefix, SWEEPER)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    log.info("scheduler_started", function=name, pid=os.getpid())
    for number in itertools.count(1):
        show_life()
        if stopped.wait(SWEEP_EVERY_SECONDS):
            break
        try:
            payload = json.dumps({"deep": number % DEEP_EVERY == 0})
            answer = client.invoke(FunctionName=name, Payload=payload.encode())
            if "FunctionError" in answer:
                log.error("sweep_failed", error=answer["Payload"].read(2000).decode(errors="replace"))
        except (ClientError, BotoCoreError) as error:
            log.warning("sweeper_not_reached", error=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
