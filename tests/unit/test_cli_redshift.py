"""The commands about Redshift, as far as they need none."""

import json

import pytest
from pydantic import ValidationError
from support.commands import run_command

from cli.output import ExitCode
from services.publisher.settings import PublisherSettings, WarehouseKind

REDSHIFT = {
    "ESCLUSA_WAREHOUSE": "redshift",
    "ESCLUSA_REDSHIFT_WORKGROUP": "analytics",
    "ESCLUSA_REDSHIFT_DATABASE": "dev",
    "ESCLUSA_REDSHIFT_COPY_ROLE_ARN": "arn:aws:iam::123456789012:role/copy",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("ESCLUSA_WAREHOUSE_DSN", *REDSHIFT, "ESCLUSA_REDSHIFT_CLUSTER", "ESCLUSA_REDSHIFT_DB_USER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in REDSHIFT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_publisher_with_redshift_needs_no_dsn(environment):
    settings = PublisherSettings()

    assert settings.warehouse is WarehouseKind.REDSHIFT
    assert settings.redshift_place.arguments == {"Database": "dev", "WorkgroupName": "analytics"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ESCLUSA_REDSHIFT_CLUSTER": "c"}, "expected one of them, found both"),
        ({"ESCLUSA_REDSHIFT_WORKGROUP": ""}, "expected one of them, found neither"),
        ({"ESCLUSA_REDSHIFT_DATABASE": ""}, "ESCLUSA_REDSHIFT_DATABASE"),
        ({"ESCLUSA_REDSHIFT_COPY_ROLE_ARN": ""}, "ESCLUSA_REDSHIFT_COPY_ROLE_ARN"),
        ({"ESCLUSA_REDSHIFT_DB_USER": "u"}, "a cluster without a secret only"),
        ({"ESCLUSA_WAREHOUSE": "postgres"}, "ESCLUSA_WAREHOUSE_DSN"),
    ],
)
def test_settings_that_contradict_each_other_are_told_by_name(environment, changes, expected):
    for name, value in changes.items():
        environment.setenv(name, value)

    with pytest.raises(ValidationError, match=expected):
        PublisherSettings()


def test_the_schemas_over_the_lake_are_printed_for_somebody_else_to_run(environment):
    environment.setenv("ESCLUSA_LEDGER_DSN", "env:LEDGER")
    environment.setenv("LEDGER", "postgresql://nobody@127.0.0.1:1/ledger")
    environment.setenv("ESCLUSA_BUCKET_PREFIX", "acme-lake")

    result = run_command("redshift", "lake", "--source", "shop", "--dry-run", "--json")

    assert result.exit_code == ExitCode.OK, result.errors
    (statement,) = json.loads(result.output)["statements"]
    assert statement["sql"] == (
        "CREATE EXTERNAL SCHEMA IF NOT EXISTS \"shop__lake\" FROM DATA CATALOG DATABASE 'acme_lake_shop' "
        "REGION 'eu-west-1' IAM_ROLE 'arn:aws:iam::123456789012:role/copy'"
    )


def test_a_place_that_is_none_is_refused_before_anything_is_asked():
    result = run_command("redshift", "verify", "--bucket", "b", "--role-arn", "arn:r")

    assert result.exit_code == ExitCode.CONFIGURATION
    assert "expected a workgroup or a cluster" in result.errors
