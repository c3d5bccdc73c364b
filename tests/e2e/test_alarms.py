"""Silence is told: a table that nobody enqueues, a batch that is held, a message that died; and that each is over."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError
from support.commands import run_command
from support.fleet import SmallFleet, until

from cli.output import ExitCode
from infra.names import function_name
from infra.plan import WATCHER
from shared import lifecycle
from shared.domain.batches import BatchState
from shared.errors import Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "a key of this test"

TABLES = """
CREATE TABLE beats (id integer PRIMARY KEY, changed timestamptz NOT NULL DEFAULT now());
INSERT INTO beats SELECT i, '2026-02-01Z' FROM generate_series(1, 20) AS i;
"""

SOURCE = """\
name: pulse
kind: postgres
connection: {dsn: 'secretsmanager:esclusa/pulse#dsn'}
schedule: {every: 1s, expected_by: 10m}
tables:
  beats:
    relation: public.beats
    key: [id]
    cursor: {column: changed, lag: 1s, overlap: 0s}
    publish: {mode: merge, target: both}
    columns:
      id: {source_type: integer, type: int32, nullable: false, mask: keep}
      changed: {source_type: timestamp with time zone, type: timestamptz, nullable: false, mask: keep}
"""


class Receiver:
    """Whoever is on call: a server that keeps the notices it is sent, and is out for as long as told."""

    def __init__(self) -> None:
        self.notices: list[dict[str, Any]] = []
        self.refused_count = 0
        self.is_out = False

    def take(self, headers: Any, body: bytes) -> int:
        if self.is_out:
            self.refused_count += 1
            return 503
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        digest = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
        if headers["webhook-signature"] != f"v1,{base64.b64encode(digest).decode()}":
            return 401
        self.notices.append(json.loads(body))
        return 204

    def told(self, kind: str, subject: str) -> list[str]:
        """What was told of one alarm, in its order; a notice that came twice under its id counts once."""
        notices = {notice["id"]: notice for notice in self.notices}
        return [
            alarm["event"]
            for notice in notices.values()
            for alarm in notice["alarms"]
            if (alarm["kind"], alarm["subject"]) == (kind, subject)
        ]


@contextmanager
def served(receiver: Receiver) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(self.headers, body))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/on-call"
    server.shutdown()
    server.server_close()


@pytest.fixture
def watcher(fleet: SmallFleet) -> Iterator[tuple[Receiver, Callable[[], dict[str, int]]]]:
    """The watcher of the fleet with a webhook, and a way to let it look."""
    client = fleet.client("lambda")
    name = function_name(fleet.fleet.settings.bucket_prefix, WATCHER)
    before = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    receiver = Receiver()

    def look() -> dict[str, int]:
        try:
            answer = client.invoke(FunctionName=name, Payload=b"{}")
        except ClientError as error:
            # The local AWS server on a busy machine; EventBridge would call again.
            raise Unavailable(str(error)) from error
        body = answer["Payload"].read()
        assert "FunctionError" not in answer, body
        report: dict[str, int] = json.loads(body)
        return report

    with served(receiver) as url:
        fleet.put_secret("esclusa/alarms", {"url": url, "key": KEY})
        channel = {
            "ESCLUSA_ALARM_WEBHOOK_URL": "secretsmanager:esclusa/alarms#url",
            "ESCLUSA_ALARM_WEBHOOK_KEY": "secretsmanager:esclusa/alarms#key",
        }
        client.update_function_configuration(FunctionName=name, Environment={"Variables": before | channel})
        try:
            yield receiver, look
        finally:
            client.update_function_configuration(FunctionName=name, Environment={"Variables": before})


@pytest.fixture
def pulse(fleet: SmallFleet) -> Iterator[str]:
    """A source whose rows may take ten minutes: the machine may be busy."""
    with fleet.own_source("pulse", TABLES) as dsn:
        fleet.write_source("pulse", SOURCE)
        fleet.up()
        yield dsn


def test_silence_and_refusal_are_told_and_so_is_their_end(
    fleet: SmallFleet, pulse: str, watcher: tuple[Receiver, Callable[[], dict[str, int]]]
) -> None:
    receiver, look = watcher

    def until_told(
        kind: str, subject: str, event: str, *, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        def look_again() -> bool:
            meanwhile()
            look()
            # The last word counts: a batch that arrives late ends an alarm for a moment.
            return receiver.told(kind, subject)[-1:] == [event]

        until(look_again, what=f"{kind} of {subject} to be told as {event}", pause=0.5)

    # Rows come as they should: nothing is told.
    fleet.move_everything("pulse")
    until(look, what="the watcher to look")
    assert receiver.told("table_late", "pulse.beats") == []

    # Nobody enqueues the source any more, and its rows are urgent. While the receiver is out, nothing is lost.
    fleet.write_source("pulse", SOURCE.replace("10m", "2s"))
    fleet.enqueue("pulse")
    # What is still on its way would end the alarm for a moment.
    fleet.wait_until_at_rest()
    receiver.is_out = True
    until(lambda: look()["told"] == 0 and receiver.refused_count > 1, what="notices to be refused")
    receiver.is_out = False
    until_told("table_late", "pulse.beats", "raised")
    late = run_command("alarms", "--json")
    assert late.exit_code == ExitCode.PROBLEM
    assert ("table_late", "pulse.beats") in {(a["kind"], a["subject"]) for a in late.document["alarms"]}

    # It is enqueued again.
    fleet.write_source("pulse", SOURCE)
    until_told("table_late", "pulse.beats", "resolved", meanwhile=lambda: fleet.enqueue("pulse"))

    # The source changes, and its next batch is refused.
    with psycopg.connect(pulse, autocommit=True) as connection:
        connection.execute("ALTER TABLE beats RENAME COLUMN changed TO altered")
    until(lambda: fleet.enqueue("pulse")[0].planned_count, what="a batch to be planned")
    held = until(
        lambda: fleet.batches(source="pulse", states=frozenset({BatchState.QUARANTINED})),
        what="a batch to be refused",
    )
    until_told("batch_held", held[0].id, "raised")
    for batch in held:
        with fleet.fleet.ledger.transaction() as tx:
            assert lifecycle.discard(tx, batch.id, detail="a test")
    until_told("batch_held", held[0].id, "resolved")
    assert receiver.told("batch_held", held[0].id) == ["raised", "resolved"]


def test_a_dead_letter_is_told_until_its_queue_is_cleared(
    fleet: SmallFleet, watcher: tuple[Receiver, Callable[[], dict[str, int]]]
) -> None:
    receiver, look = watcher
    sqs, url = fleet.client("sqs"), fleet.queue_url("clean", dead_letters=True)

    def until_told(events: list[str]) -> None:
        # The server's own schedule calls the watcher too; of two at once one does nothing.
        def look_again() -> bool:
            look()
            return receiver.told("dead_letters", "clean")[before:] == events

        until(look_again, what=f"dead letters to be told as {events}", pause=0.5)

    sqs.purge_queue(QueueUrl=url)
    until(lambda: look()["told"] == 0, what="everything before to be told")
    before = len(receiver.told("dead_letters", "clean"))

    sqs.send_message(QueueUrl=url, MessageBody="what nobody could read")
    until_told(["raised"])
    until(look, what="the watcher to look once more")
    sqs.purge_queue(QueueUrl=url)
    until_told(["raised", "resolved"])

    assert all("what nobody" not in json.dumps(notice) for notice in receiver.notices)
