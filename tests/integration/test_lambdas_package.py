"""The zip of the Lambdas: the same bytes each time, small enough, and all that the handlers need."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.runtime_api import running_lambda

from infra import package
from infra.package import MAX_DIRECT_UPLOAD_BYTES, MAX_UNZIPPED_BYTES, PACKAGES, Archive
from infra.plan import FUNCTION_QUEUES, SCHEDULES
from shared.errors import ConfigurationError
from shared.ports import QueueName

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def build_or_skip(target: Path, **changes: str) -> Archive:
    try:
        return package.build(target, **changes)
    except ConfigurationError as error:
        if "No matching distribution" in str(error) or "Connection" in str(error):
            pytest.skip("no registry of packages can be reached")
        raise


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return build_or_skip(tmp_path_factory.mktemp("zip") / "lambdas.zip")


def test_two_builds_give_the_same_bytes(archive: Archive, tmp_path: Path) -> None:
    again = build_or_skip(tmp_path / "elsewhere" / "again.zip")

    assert again.path.read_bytes() == archive.path.read_bytes()


def test_it_is_within_the_limits_of_lambda(archive: Archive) -> None:
    assert archive.unzipped_size_in_bytes < MAX_UNZIPPED_BYTES
    assert archive.size_in_bytes < MAX_DIRECT_UPLOAD_BYTES


def test_it_holds_our_packages_and_nothing_that_a_lambda_never_uses(archive: Archive) -> None:
    names = zipfile.ZipFile(archive.path).namelist()

    top = {name.partition("/")[0] for name in names}
    assert set(PACKAGES) <= top
    assert not top & {"celery", "kombu", "polars", "services", "cli", "local", "infra", "tests", "pandas"}
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_its_native_code_is_for_the_runtime_of_lambda(archive: Archive) -> None:
    native = [name for name in zipfile.ZipFile(archive.path).namelist() if ".cpython-" in name]

    assert native
    assert all("cpython-312-x86_64-linux-gnu" in name for name in native)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unzipped code, for the Python at hand: that of Lambda may not be installed here."""
    folder = tmp_path_factory.mktemp("here")
    built = build_or_skip(folder / "here.zip", python_version=HERE)
    zipfile.ZipFile(built.path).extractall(folder / "unzipped")
    return folder / "unzipped"


def test_every_handler_imports_from_the_zip_alone_and_reads_a_footer(root: Path, tmp_path: Path) -> None:
    functions = [*FUNCTION_QUEUES, *SCHEDULES]
    modules = [f"lambdas.{function.replace('-', '_')}.handler" for function in functions]

    program = f"""
import importlib, io, json, sys
sys.path.insert(0, {str(root)!r})
for module in {modules!r}:
    assert callable(importlib.import_module(module).handle)
import boto3, psycopg, pyarrow as pa, pyarrow.parquet as pq
from shared import parquet_footer
for service in ("s3", "sns", "sqs", "secretsmanager", "ssm"):
    boto3.client(service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
sink = io.BytesIO()
pq.write_table(pa.table({{"id": [1, 2]}}), sink)
footer = parquet_footer._parse(sink.getvalue()[4:], None)
print(json.dumps([footer.record_count, [pa.__file__, psycopg.__file__, boto3.__file__, parquet_footer.__file__]]))
"""
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert finished.returncode == 0, finished.stderr
    record_count, files = json.loads(finished.stdout)
    assert record_count == 2
    assert all(file.startswith(str(root)) for file in files)


@pytest.mark.parametrize("function", [*FUNCTION_QUEUES, *SCHEDULES])
def test_every_function_runs_from_the_zip_under_the_runtime_client_of_aws(root: Path, function: str) -> None:
    # Its ledger is away: so it is seen whether all that it is made of came up, and what it says.
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "eu-west-1",
        "ESCLUSA_LEDGER_DSN": "env:LEDGER_DSN",
        "LEDGER_DSN": "postgresql://nobody@127.0.0.1:9/nowhere",
        "ESCLUSA_QUEUE_URLS": json.dumps({str(queue): f"http://127.0.0.1:9/{queue}" for queue in QueueName}),
    }
    message = {"messageId": "m1", "body": json.dumps({"version": 1, "batch_id": "b" + 24 * "0"})}
    message |= {
        "eventSource": "aws:sqs",
        "receiptHandle": "h",
        "attributes": {"ApproximateReceiveCount": "1"},
    }
    is_called_by_queue = function in FUNCTION_QUEUES

    with running_lambda(
        f"lambdas.{function.replace('-', '_')}.handler.handle", environment, root=root
    ) as running:
        kind, answer = running.call({"Records": [message]} if is_called_by_queue else {})

    if is_called_by_queue:
        assert (kind, answer) == ("response", {"batchItemFailures": [{"itemIdentifier": "m1"}]})
    else:
        assert kind == "error"
        assert answer["errorType"] == "Unavailable"
        assert "127.0.0.1" in answer["errorMessage"]


def test_dependencies_without_their_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlocked = tmp_path / "lambdas.txt"
    unlocked.write_text("structlog==26.1.0\n")
    monkeypatch.setattr(package, "REQUIREMENTS", unlocked)

    with pytest.raises(ConfigurationError, match="with its hash"):
        package.build(tmp_path / "x.zip")


def test_a_zip_too_large_for_lambda_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "install_dependencies", lambda *_, **__: None)
    monkeypatch.setattr(package, "MAX_UNZIPPED_BYTES", 1000)

    with pytest.raises(ConfigurationError, match="expected at most 1000 bytes unzipped"):
        package.build(tmp_path / "x.zip")
