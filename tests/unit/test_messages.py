import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.files import Area, Location
from shared.errors import MalformedMessage
from shared.messages import (
    EXTRACT_TASK,
    MAX_SQS_MESSAGE_BYTES,
    CheckBatch,
    CleanBatch,
    ObjectCreated,
    SetObjectAside,
    TaskMessage,
    clean_message,
    gate_message,
    parse_clean_message,
    parse_gate_message,
    parse_task_message,
    set_aside_message,
    task_message,
)

PARSERS: list[Callable[[str], object]] = [
    parse_task_message,
    parse_gate_message,
    parse_clean_message,
]


def s3_event(*, key: object = "tmp/orders/a.csv", size: object = 7, **changes: object) -> str:
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": "esclusa-shop", "arn": "arn:aws:s3:::esclusa-shop"},
            "object": {"key": key, "size": size, "eTag": "0cc1", "sequencer": "0055AED6DCD90281E5"},
        },
    }
    return json.dumps({"Records": [record | changes]})


def test_a_task_is_read_as_it_was_written() -> None:
    body = task_message(EXTRACT_TASK, {"batch_id": "b1"}, queue="extract", task_id="b1-extract")

    assert parse_task_message(body) == TaskMessage(EXTRACT_TASK, "b1-extract", "b1")


def test_a_task_is_plain_json_that_people_can_read_in_the_queue() -> None:
    body = task_message(EXTRACT_TASK, {"batch_id": "b1"}, queue="extract", task_id="b1-extract")

    assert json.loads(body)["body"] == [[], {"batch_id": "b1"}, {}]


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        ("os.system", {"batch_id": "b1"}),
        (EXTRACT_TASK, {}),
        (EXTRACT_TASK, {"batch_id": "b1", "rows": "1"}),
        (EXTRACT_TASK, {"batch_id": ""}),
    ],
)
def test_a_task_that_no_worker_would_take_is_not_written(task: str, kwargs: dict[str, str]) -> None:
    with pytest.raises(MalformedMessage):
        task_message(task, kwargs, queue="extract", task_id="b1")


@pytest.mark.parametrize("area", Area)
def test_a_gates_message_is_read_as_it_was_written(area: Area) -> None:
    assert parse_gate_message(gate_message("b1", area)) == [CheckBatch("b1", area)]


def test_a_cleaners_message_is_read_as_it_was_written() -> None:
    location = Location("esclusa-shop", "tmp/ä b\n.csv")

    assert parse_clean_message(clean_message("b1")) == CleanBatch("b1")
    assert parse_clean_message(set_aside_message(location)) == SetObjectAside(location)


@pytest.mark.parametrize("key", ["tmp/order+items/a%C3%A9%2Bb.csv", "tmp%2Forder+items%2Fa%C3%A9%2Bb.csv"])
def test_a_key_of_an_s3_event_is_decoded_however_its_slashes_are_written(key: str) -> None:
    (created,) = parse_gate_message(s3_event(key=key))

    assert created == ObjectCreated(
        Location("esclusa-shop", "tmp/order items/aé+b.csv"), 7, sequencer="0055AED6DCD90281E5"
    )


def test_an_s3_event_without_sequencer_is_read() -> None:
    event = json.loads(s3_event())
    del event["Records"][0]["s3"]["object"]["sequencer"]

    (created,) = parse_gate_message(json.dumps(event))

    assert isinstance(created, ObjectCreated)
    assert created.sequencer is None


def test_the_test_event_of_s3_names_no_object() -> None:
    body = '{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "esclusa-shop"}'

    assert parse_gate_message(body) == []


@pytest.mark.parametrize(
    "body",
    [
        s3_event(key=""),
        s3_event(key=7),
        s3_event(key="tmp/%FF.csv"),
        s3_event(key="\ud800"),
        s3_event(key="k" * 1025),
        s3_event(key="%C3%A9" * 513),
        s3_event(size=-1),
        s3_event(size=True),
        s3_event(size="7"),
        s3_event(eventName="ObjectRemoved:Delete"),
        s3_event(eventSource="aws:sns"),
        s3_event(s3=[]),
        s3_event(s3={"bucket": {"name": "../x"}, "object": {"key": "k", "size": 1}}),
        '{"Records": []}',
        '{"Records": {"0": 1}}',
        '{"Records": [null]}',
    ],
)
def test_a_lying_s3_event_is_refused(body: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_gate_message(body)


@pytest.mark.parametrize(
    "body",
    [
        '{"version": 2, "kind": "check", "batch_id": "b1", "area": "tmp"}',
        '{"version": true, "kind": "check", "batch_id": "b1", "area": "tmp"}',
        '{"version": "1", "kind": "check", "batch_id": "b1", "area": "tmp"}',
        '{"version": 1, "kind": "drop", "batch_id": "b1", "area": "tmp"}',
        '{"version": 1, "kind": "check", "batch_id": "b1", "area": "elsewhere"}',
        '{"version": 1, "kind": "check", "batch_id": "b1", "area": ["tmp"]}',
        '{"version": 1, "kind": "check", "batch_id": "b 1", "area": "tmp"}',
        '{"version": 1, "kind": "check", "batch_id": {"b": 1}, "area": "tmp"}',
        '{"version": 1, "kind": "check", "batch_id": "b1", "area": "tmp", "rows": []}',
        '{"version": 1, "kind": "check", "batch_id": "b1", "batch_id": "b2", "area": "tmp"}',
        '{"version": 1, "kind": "check", "area": "tmp"}',
    ],
)
def test_a_malformed_gate_message_is_refused(body: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_gate_message(body)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "NaN",
        '{"a": Infinity}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        '{"a": ' + "1" * 10_000 + "}",
        "\ud800",
        '{"a": "' + "x" * MAX_SQS_MESSAGE_BYTES + '"}',
    ],
    ids=lambda body: ascii(body[:10]),
)
def test_what_is_no_message_at_all_is_refused(parse: Callable[[str], object], body: str) -> None:
    with pytest.raises(MalformedMessage):
        parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TEMPLATES = [
    json.loads(task_message(EXTRACT_TASK, {"batch_id": "b1"}, queue="extract", task_id="b1")),
    json.loads(gate_message("b1", Area.TMP)),
    json.loads(clean_message("b1")),
    json.loads(set_aside_message(Location("esclusa-shop", "tmp/x"))),
    json.loads(s3_event()),
]


@st.composite
def almost_messages(draw: st.DrawFn) -> str:
    """A good message with one value somewhere in it replaced by anything."""
    message = json.loads(json.dumps(draw(st.sampled_from(TEMPLATES))))
    target = message
    while True:
        step = draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        inner = target[step]
        if not inner or not isinstance(inner, dict | list) or draw(st.booleans()):
            target[step] = draw(JSON)
            return json.dumps(message)
        target = inner


@pytest.mark.parametrize("parse", PARSERS)
@given(body=st.text() | JSON.map(json.dumps) | almost_messages())
def test_anything_is_read_or_refused_and_nothing_else_is_raised(
    parse: Callable[[str], object], body: str
) -> None:
    refusal = ""

    try:
        parse(body)
    except MalformedMessage as error:
        refusal = str(error)

    # Ten names of forty characters, each written out as ten.
    assert len(refusal) < 5000
    assert "\n" not in refusal
