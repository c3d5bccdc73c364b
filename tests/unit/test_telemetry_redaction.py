"""What may stand in a log line, and what is cut out of it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.files import Location
from shared.telemetry.redaction import MAX_ITEMS, MAX_TEXT_CHARACTERS, harmless, harmless_text

HIDDEN = "hunter2Hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://reader:{HIDDEN}@db:5432/shop",
        f"postgresql://reader:p@ss/{HIDDEN}@db/shop",
        f"cannot reach mysql+pymysql://{HIDDEN}@db, giving up",
        f"https://user:{HIDDEN}@crm.example/v1",
        f"host=db password={HIDDEN} user=x",
        f"host=db password='a {HIDDEN}' user=x",
        f'password = "a {HIDDEN}"',
        f"DRIVER={{x}};UID=u;PWD={HIDDEN};Server=s",
        f"Pwd={{a;{HIDDEN}}};Server=s",
        f"GET /v1?api_key={HIDDEN}&page=1",
        f"GET /v1?access_token={HIDDEN}&page=1",
        f'{{"token": "{HIDDEN}"}}',
        f"{{'aws_secret_access_key': '{HIDDEN}'}}",
        f"Authorization: Basic {HIDDEN}",
        f"authorization: bearer {HIDDEN}",
        f"env:password={HIDDEN}",
        f"sent Bearer {HIDDEN}",
        f"X-Amz-Security-Token={HIDDEN}",
        f"AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature={HIDDEN}",
        f"Set-Cookie: {HIDDEN}; Path=/",
        f"-----BEGIN RSA PRIVATE KEY-----\n{HIDDEN}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{HIDDEN}",
        "x" * (MAX_TEXT_CHARACTERS - 30) + f" postgresql://reader:{HIDDEN}@db/shop",
        "x" * (MAX_TEXT_CHARACTERS - 30) + f" postgresql://reader:{HIDDEN}" + HIDDEN * 1000,
    ],
)
def test_what_looks_like_a_secret_is_cut_out_of_a_text(text):
    shown = harmless_text(text)

    assert HIDDEN not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "stage_completed",
        "s3://shop/quarantine/tmp/x.csv@0cc1d3: keys are written once",
        "secretsmanager:esclusa/shop#dsn: AWS knows no such secret (ResourceNotFoundException)",
        "env:SHOP_DSN: the environment has no such variable",
        "file:/run/secrets/token: the file cannot be read: Is a directory",
        "http://127.0.0.1:45660/000000000000/extract",
        "batch b1, attempt 2: 3 rows read = 2 written + 1 dropped",
        "2026-11-22T10:00:00Z",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert harmless_text(text) == text


@pytest.mark.parametrize(
    "key",
    ["password", "DB_PASSWORD", "pwd", "dsn", "shop_dsn", "token", "secret", "mask_key", "api-key", "Cookie"],
)
def test_a_field_named_like_a_secret_is_not_shown_whatever_it_holds(key):
    assert harmless({key: HIDDEN}) == {key: "***"}
    assert harmless({key: {"deep": [HIDDEN]}}) == {key: "***"}
    assert harmless({key: 5432}) == {key: "***"}


@pytest.mark.parametrize(
    "key", ["mask_key_id", "secret_reference", "token_count", "batch_id", "key", "table"]
)
def test_a_field_about_a_secret_is_shown(key):
    assert harmless({key: "k1"}) == {key: "k1"}


def test_a_huge_text_is_cut_and_says_how_long_it_was():
    shown = harmless_text("x" * 10_000_000)

    assert shown == "x" * MAX_TEXT_CHARACTERS + "… (cut, 10000000 characters)"


def test_huge_and_deep_structures_are_cut():
    endless: list[object] = []
    endless.append(endless)

    assert len(harmless(list(range(1000)))) == MAX_ITEMS
    assert len(harmless({str(n): n for n in range(1000)})) == MAX_ITEMS
    assert "too deep" in json.dumps(harmless(endless))


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Connection:
    dsn: str = field(default=f"postgresql://reader:{HIDDEN}@db/shop")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError(HIDDEN)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (12_840, 12_840),
        (4.5, 4.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Colour.RED, "red"),
        (datetime(2026, 11, 22, tzinfo=UTC), "2026-11-22T00:00:00+00:00"),
        (date(2026, 11, 22), "2026-11-22"),
        (b"row contents", "<12 bytes>"),
        (Location("shop", "tmp/x"), "s3://shop/tmp/x"),
        ((1, "a"), [1, "a"]),
        ({1: 2}, {"1": 2}),
        (Connection(), "Connection(dsn=***)"),
        (Unprintable(), "<unprintable Unprintable>"),
    ],
)
def test_every_value_becomes_plain_json(value, expected):
    found = harmless(value)

    assert found == expected
    assert type(found) is type(expected)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(_ANYTHING)
def test_anything_can_be_written_as_one_line_of_strict_json(value):
    line = json.dumps(harmless(value), allow_nan=False)

    assert len(line.splitlines()) == 1
    assert line.isascii()
