"""`esclusa infra` from the shell, against a CloudFormation that answers: render, diff, deploy, diff again."""

import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from support.commands import Ended, run_command

from cli.output import ExitCode

PREFIX = "infracli"

SOURCE = """\
name: web_shop
kind: postgres
connection: {dsn: "secretsmanager:infracli/sources/shop#dsn"}
tables:
  orders:
    relation: public.orders
    key: [id]
    schedule: {every: 1h}
    publish: {mode: replace}
    columns:
      id: {type: int64, nullable: false, mask: keep}
"""


@pytest.fixture
def shell(aws_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a deployment, a source, and the code of its Lambdas; the directory of the sources."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "web_shop.yaml").write_text(SOURCE)
    with zipfile.ZipFile(tmp_path / "lambdas.zip", "w") as code:
        code.writestr("lambdas/cleaner/handler.py", "def handle(event, context): return {}\n")
    for name, value in {
        "ESCLUSA_DEPLOYMENT": "aws",
        "ESCLUSA_REGION": aws_env["AWS_REGION"],
        "ESCLUSA_BUCKET_PREFIX": PREFIX,
        "ESCLUSA_LEDGER_DSN": "secretsmanager:infracli/ledger#dsn",
        "ESCLUSA_WAREHOUSE_DSN": "secretsmanager:infracli/warehouse#dsn",
        "ESCLUSA_REDSHIFT_WORKGROUP": "analytics",
        "ESCLUSA_REDSHIFT_DATABASE": "dev",
        "ESCLUSA_REDSHIFT_COPY_ROLE_ARN": "arn:aws:iam::111122223333:role/copy",
        "ESCLUSA_SOURCES": str(sources),
        "ESCLUSA_INFRA_CODE_BUCKET": "infracli-code",
        "ESCLUSA_INFRA_CODE_FILE": str(tmp_path / "lambdas.zip"),
    }.items():
        monkeypatch.setenv(name, value)
    return sources


def infra(*words: str, typed: str = "") -> Ended:
    return run_command("infra", *words, typed=typed)


def make_code_bucket() -> None:
    s3 = boto3.client("s3")
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(
            Bucket="infracli-code", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_templates_are_written_alike_each_time_and_say_the_same_in_json_and_yaml(
    shell: Path, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))

    told = infra("render", "--out", str(first), "--json").document
    infra("render", "--out", str(second))
    infra("render", "--out", str(third), "--yaml")

    assert {item["stack"] for item in told["templates"]} == {"infracli-shared", "infracli-web-shop-source"}
    assert files(first) == files(second)
    assert {name.replace(".yaml", ".json"): yaml.safe_load(text) for name, text in files(third).items()} == {
        name: json.loads(text) for name, text in files(first).items()
    }
    assert not any(b"&id" in text for text in files(third).values())


def test_templates_of_sources_that_are_gone_are_named(shell: Path, tmp_path: Path) -> None:
    infra("render", "--out", str(tmp_path / "out"))
    (shell / "web_shop.yaml").rename(shell / "shop.yaml")
    (shell / "shop.yaml").write_text(SOURCE.replace("web_shop", "shop"))

    ended = infra("render", "--out", str(tmp_path / "out"))

    assert "infracli-web-shop-source.json" in ended.errors


def test_what_is_deployed_is_the_same_until_a_setting_changes(
    shell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudformation: Any = boto3.client("cloudformation")
    make_code_bucket()
    monkeypatch.setenv("ESCLUSA_SHOP_DSN", "postgresql://reader:hunter2@shop/shop")

    before = infra("diff", "--json")
    dry = infra("deploy", "--dry-run", "--json")
    assert (before.exit_code, before.document["is_same"]) == (2, False)
    assert all(stack["is_new"] for stack in before.document["stacks"])
    assert dry.exit_code == 0
    assert not cloudformation.list_stacks(StackStatusFilter=["REVIEW_IN_PROGRESS"])["StackSummaries"]

    refused = infra("deploy", typed="no\n")
    assert refused.exit_code == ExitCode.PROBLEM
    assert "infracli-shared" in refused.errors

    deployed = infra("deploy", "--yes")
    assert deployed.exit_code == 0, deployed.errors
    assert "CREATE_COMPLETE" in deployed.errors
    same = infra("diff")
    assert (same.exit_code, same.output.strip()) == (0, "2 stacks are as their templates say")
    assert infra("deploy", "--json").document["stacks"][0]["changes"] == []

    variables = infra("environment", "--json").document
    assert "infracli-extract" in json.loads(variables["ESCLUSA_QUEUE_URLS"])["extract"]
    assert variables["ESCLUSA_LEDGER_DSN"] == "secretsmanager:infracli/ledger#dsn"
    assert not [name for name in variables if name.startswith("ESCLUSA_INFRA_")]
    assert "ESCLUSA_SHOP_DSN" not in variables  # no setting, so perhaps a secret
    words = ("host", "--registry", "registry.example", "--tag", "0.1.0")
    assert "role_arn = arn:aws:iam::000000000000:role/infracli-publisher" in infra(*words).output
    assert "expected one of extractor" in infra(*words, "--run", "extractors=2").errors

    monkeypatch.setenv("ESCLUSA_INFRA_MAX_RECEIVE_COUNT", "20")
    changed = infra("diff", "--json").document["stacks"][0]["changes"]
    assert {(change["action"], change["type"]) for change in changed} == {("Modify", "AWS::SQS::Queue")}
    assert infra("diff", "--stack", "infracli-web-shop-source").exit_code == 0
    # What was looked at was withdrawn.
    assert not cloudformation.list_change_sets(StackName="infracli-shared")["Summaries"][1:]


def test_a_source_before_what_all_share_fails_with_the_reason(
    shell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_code_bucket()
    monkeypatch.setenv("ESCLUSA_BUCKET_PREFIX", "infrafails")

    ended = infra("deploy", "--yes", "--stack", "infrafails-web-shop-source")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "stack infrafails-web-shop-source" in ended.errors
    assert "infrafails-key-arn" in ended.errors


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ESCLUSA_INFRA_CODE_BUCKET", "", "ESCLUSA_INFRA_CODE_BUCKET"),
        ("ESCLUSA_INFRA_CODE_FILE", "/nowhere.zip", "make lambdas"),
        ("ESCLUSA_INFRA_MAX_RECEIVE_COUNT", "12", "ESCLUSA_MAX_ATTEMPTS (12)"),
        ("ESCLUSA_INFRA_LAMBDA_SUBNET_IDS", '["subnet-1"]', "ESCLUSA_INFRA_LAMBDA_SECURITY_GROUP_IDS"),
        ("ESCLUSA_INFRA_LOG_RETENTION_DAYS", "31", "expected one of 1, 3, 5"),
        ("ESCLUSA_WAREHOUSE", "redshift", "ESCLUSA_INFRA_REDSHIFT_ARN: expected the ARN of the workgroup"),
        ("ESCLUSA_INFRA_OIDC_PROVIDER_ARN", "https://oidc.eks", "ESCLUSA_INFRA_OIDC_PROVIDER_ARN"),
        ("ESCLUSA_LEDGER_DSN", "postgresql://user:hidden@db/ledger", "expected a reference"),
    ],
)
def test_a_setting_that_is_wrong_or_contradicts_another_is_named(
    shell: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)

    ended = infra("render", "--out", str(tmp_path / "out"))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert told in ended.errors
    assert "hidden" not in ended.errors
    assert not (tmp_path / "out").exists()


def test_a_stack_that_there_is_not_is_refused(shell: Path) -> None:
    ended = infra("diff", "--stack", "infracli-shop")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "infracli-web-shop-source" in ended.errors
