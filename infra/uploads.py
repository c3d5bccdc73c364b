"""Code and large templates, put into a bucket under the SHA-256 of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from infra.deploy import Upload
from shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def code_key(file: Path) -> str:
    """
    Return the key of the Lambdas' code. CloudFormation updates a function only if the name of its code changes.

    Raises:
        ConfigurationError: if there is no such file.
    """
    try:
        with file.open("rb") as opened:
            return f"lambdas-{hashlib.file_digest(opened, 'sha256').hexdigest()}.zip"
    except OSError as error:
        raise ConfigurationError(
            f"{file}: expected the code of the Lambdas, found none: {error.strerror}; `make lambdas` builds it, and "
            "ESCLUSA_INFRA_CODE_FILE says where it is"
        ) from error


def upload_code(client: S3Client, bucket: str, key: str, file: Path) -> bool:
    """Put the code into the bucket; False if it is there already."""
    with _refusals_told(bucket):
        found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        if any(item.get("Key") == key for item in found.get("Contents", ())):
            return False
        client.upload_file(str(file), bucket, key)
    return True


def uploading_to(client: S3Client, bucket: str) -> Upload:
    """Return what puts templates into a bucket and tells their URLs."""

    def upload(name: str, body: str) -> str:
        key = f"templates/{hashlib.sha256(body.encode()).hexdigest()}-{name}"
        with _refusals_told(bucket):
            client.put_object(Bucket=bucket, Key=key, Body=body.encode(), ContentType="application/json")
        return f"{client.meta.endpoint_url}/{bucket}/{key}"

    return upload


@contextmanager
def _refusals_told(bucket: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise ConfigurationError(
            f"bucket {bucket}: expected the bucket of code and templates (ESCLUSA_INFRA_CODE_BUCKET), to which you may "
            f"write: {error}"
        ) from error
    except BotoCoreError as error:
        raise Unavailable(f"bucket {bucket}: {error}") from error
