"""What every secret store promises, and how references to secrets read."""

import json
import secrets as random_names
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from support.aws_endpoint import use_aws_endpoint

from shared.errors import SecretNotFound, Unavailable
from shared.ports import SecretStore
from shared.secrets.memory import MemorySecrets
from shared.secrets.reference import Reference, SecretScheme, parse_reference
from shared.secrets.resolver import CACHE_SECONDS, SecretResolver

HIDDEN = "hunter2-never-shown"


@dataclass
class Bench:
    """A store that holds one secret, under one reference."""

    store: SecretStore
    reference: str
    #: A reference of the same kind that leads nowhere.
    nowhere: str


def memory_bench(value: str, request: pytest.FixtureRequest) -> Bench:
    return Bench(MemorySecrets({"env:SHOP_DSN": value}), "env:SHOP_DSN", "env:NOTHING")


def environment_bench(value: str, request: pytest.FixtureRequest) -> Bench:
    store = SecretResolver(region="eu-west-1", environment={"SHOP_DSN": value})
    return Bench(store, "env:SHOP_DSN", "env:NOTHING")


def file_bench(value: str, request: pytest.FixtureRequest) -> Bench:
    directory: Path = request.getfixturevalue("tmp_path")
    (directory / "dsn").write_text(value + "\n")
    return Bench(SecretResolver(region="eu-west-1"), f"file:{directory}/dsn", f"file:{directory}/nothing")


def secrets_manager_bench(server: str) -> Callable[[str, pytest.FixtureRequest], Bench]:
    def build(value: str, request: pytest.FixtureRequest) -> Bench:
        region = aws_region(server, request)
        name = f"esclusa/{random_names.token_hex(6)}"
        boto3.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps({"dsn": value}))
        nowhere = f"secretsmanager:{name}-nothing#dsn"
        return Bench(SecretResolver(region=region), f"secretsmanager:{name}#dsn", nowhere)

    return build


def ssm_bench(server: str) -> Callable[[str, pytest.FixtureRequest], Bench]:
    def build(value: str, request: pytest.FixtureRequest) -> Bench:
        region = aws_region(server, request)
        name = f"/esclusa/{random_names.token_hex(6)}"
        boto3.client("ssm").put_parameter(Name=name, Value=value or " ", Type="SecureString")
        return Bench(SecretResolver(region=region), f"ssm:{name}", f"ssm:{name}-nothing")

    return build


def aws_region(server: str, request: pytest.FixtureRequest) -> str:
    return use_aws_endpoint(request.getfixturevalue(server), request.getfixturevalue("monkeypatch"))


BENCHES = {
    "memory": memory_bench,
    "environment": environment_bench,
    "file": file_bench,
    "secrets manager on ministack": secrets_manager_bench("ministack"),
    "secrets manager on moto": secrets_manager_bench("moto_server"),
    "ssm on ministack": ssm_bench("ministack"),
    "ssm on moto": ssm_bench("moto_server"),
}


@pytest.mark.parametrize("build", BENCHES.values(), ids=BENCHES.keys())
def test_a_reference_leads_to_its_secret_unchanged(build, request):
    value = 'postgresql://reader:p%40ss "w\'örd"#1@db/shop'
    bench = build(value, request)

    assert bench.store.resolve(bench.reference) == value


@pytest.mark.parametrize("build", BENCHES.values(), ids=BENCHES.keys())
def test_a_reference_that_leads_nowhere_is_named(build, request):
    bench = build(HIDDEN, request)

    with pytest.raises(SecretNotFound) as refused:
        bench.store.resolve(bench.nowhere)

    assert bench.nowhere in str(refused.value)
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize("build", BENCHES.values(), ids=BENCHES.keys())
def test_what_is_no_reference_is_not_found_and_not_shown(build, request):
    bench = build("value", request)

    with pytest.raises(SecretNotFound) as refused:
        bench.store.resolve(f"postgresql://reader:{HIDDEN}@db/shop")

    assert HIDDEN not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "build", [memory_bench, environment_bench, file_bench, BENCHES["secrets manager on ministack"]]
)
def test_an_empty_secret_is_none(build, request):
    bench = build("", request)

    with pytest.raises(SecretNotFound, match="empty"):
        bench.store.resolve(bench.reference)


@pytest.fixture(params=["ministack", "moto_server"])
def region(request: pytest.FixtureRequest) -> str:
    return aws_region(request.param, request)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no json", "should be a JSON object"),
        ('["dsn"]', "no JSON object with that field"),
        ('{"other": "x"}', "no JSON object with that field"),
        ('{"dsn": 5432}', "the field should be text, found int"),
    ],
)
def test_a_secret_without_the_field_is_told_and_not_shown(region, content, expected):
    name = f"esclusa/{random_names.token_hex(6)}"
    boto3.client("secretsmanager").create_secret(Name=name, SecretString=content)

    with pytest.raises(SecretNotFound, match=f"secretsmanager:{name}#dsn: .*{expected}") as refused:
        SecretResolver(region=region).resolve(f"secretsmanager:{name}#dsn")

    assert content not in str(refused.value)


def test_a_secret_without_a_field_is_its_whole_text_and_bytes_are_refused(region):
    name = f"esclusa/{random_names.token_hex(6)}"
    client = boto3.client("secretsmanager")
    client.create_secret(Name=name, SecretString="whole text")
    client.create_secret(Name=f"{name}-bytes", SecretBinary=b"bytes")
    resolver = SecretResolver(region=region)

    assert resolver.resolve(f"secretsmanager:{name}") == "whole text"
    with pytest.raises(SecretNotFound, match="should be text, found bytes"):
        resolver.resolve(f"secretsmanager:{name}-bytes")


def test_a_rotated_secret_is_seen_after_a_minute_and_costs_one_call_until_then(region):
    name = f"esclusa/{random_names.token_hex(6)}"
    client = boto3.client("secretsmanager")
    client.create_secret(Name=name, SecretString='{"k1": "old", "k2": "old too"}')
    now = [1000.0]
    resolver = SecretResolver(region=region, monotonic_seconds=lambda: now[0])
    resolver.resolve(f"secretsmanager:{name}#k1")
    client.put_secret_value(SecretId=name, SecretString='{"k1": "new", "k2": "new too"}')

    now[0] += CACHE_SECONDS - 1
    meanwhile = [resolver.resolve(f"secretsmanager:{name}#{key}") for key in ("k1", "k2")]
    now[0] += 1
    afterwards = [resolver.resolve(f"secretsmanager:{name}#{key}") for key in ("k1", "k2")]

    assert meanwhile == ["old", "old too"]
    assert afterwards == ["new", "new too"]


def test_what_was_not_found_is_looked_for_again(region):
    name = f"/esclusa/{random_names.token_hex(6)}"
    resolver = SecretResolver(region=region)
    with pytest.raises(SecretNotFound):
        resolver.resolve(f"ssm:{name}")

    boto3.client("ssm").put_parameter(Name=name, Value="late", Type="SecureString")

    assert resolver.resolve(f"ssm:{name}") == "late"


@pytest.mark.parametrize("reference", ["secretsmanager:esclusa/shop#dsn", "ssm:/esclusa/shop"])
def test_a_store_that_is_away_is_unavailable(reference, monkeypatch):
    region = use_aws_endpoint("http://127.0.0.1:9", monkeypatch)

    with pytest.raises(Unavailable, match=reference):
        SecretResolver(region=region).resolve(reference)


def test_aws_is_not_spoken_to_for_what_lies_here(monkeypatch):
    monkeypatch.setattr(boto3.session, "Session", None)

    assert SecretResolver(region="eu-west-1", environment={"A": "1"}).resolve("env:A") == "1"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"x" * 65_537, "at most 65536 bytes"), (b"\xff" + HIDDEN.encode(), "should be UTF-8 text")],
)
def test_a_file_that_cannot_be_a_secret_is_told_and_not_shown(tmp_path, content, expected):
    (tmp_path / "secret").write_bytes(content)

    with pytest.raises(SecretNotFound, match=expected) as refused:
        SecretResolver(region="eu-west-1").resolve(f"file:{tmp_path}/secret")

    assert HIDDEN not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_directory_is_no_secret(tmp_path):
    with pytest.raises(SecretNotFound, match="the file cannot be read: Is a directory"):
        SecretResolver(region="eu-west-1").resolve(f"file:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env:SHOP_DSN", Reference(SecretScheme.ENV, "SHOP_DSN")),
        ("file:/run/secrets/a b", Reference(SecretScheme.FILE, "/run/secrets/a b")),
        ("secretsmanager:esclusa/shop#dsn", Reference(SecretScheme.SECRETS_MANAGER, "esclusa/shop", "dsn")),
        (
            "secretsmanager:arn:aws:secretsmanager:eu-west-1:1:secret:x-AbCdEf",
            Reference(SecretScheme.SECRETS_MANAGER, "arn:aws:secretsmanager:eu-west-1:1:secret:x-AbCdEf"),
        ),
        ("ssm:/esclusa/shop/dsn:3", Reference(SecretScheme.SSM, "/esclusa/shop/dsn:3")),
    ],
)
def test_a_reference_reads_and_writes_as_itself(text, expected):
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        HIDDEN,
        f"{HIDDEN}:x",
        f"postgresql://reader:{HIDDEN}@db/shop",
        f"ENV:{HIDDEN}",
        f" env:{HIDDEN}",
        f"env:{HIDDEN}",
        f"env:A\n{HIDDEN}",
        f"file:a\n{HIDDEN}",
        f"secretsmanager:a#b#{HIDDEN}",
        f"secretsmanager:a b{HIDDEN}",
        f"ssm:{HIDDEN}#field",
    ],
)
def test_what_is_no_reference_is_refused_without_showing_it(text):
    with pytest.raises(ValueError, match="expected") as refused:
        parse_reference(text)

    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize("text", ["", ":", "env:", "file:", "secretsmanager:", "secretsmanager:a#", "ssm:"])
def test_a_reference_to_nothing_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_reference(text)
