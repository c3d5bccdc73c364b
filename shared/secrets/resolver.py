"""
Secrets from where they are kept: the environment, mounted files, AWS Secrets Manager, AWS Systems Manager.

An answer of AWS is remembered for a minute, so that a batch costs no call per column, and a rotated secret is
seen soon. Nothing is ever remembered of a failure, and an empty secret is none: a mask under an empty key would
be no mask.
"""

import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import SecretNotFound, Unavailable
from shared.secrets.reference import Reference, SecretScheme, parse_reference

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient
    from mypy_boto3_ssm.client import SSMClient

CACHE_SECONDS: Final = 60.0
#: Source: AWS Secrets Manager User Guide, "AWS Secrets Manager quotas"; a mounted secret may not be larger.
MAX_SECRET_BYTES: Final = 64 * 1024

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=10,
    retries={"mode": "standard", "total_max_attempts": 4},
    tcp_keepalive=True,
)

#: What AWS says when a name leads nowhere. A secret marked for deletion is an invalid request.
_MISSING_CODES: Final = {
    "ResourceNotFoundException",
    "InvalidRequestException",
    "ParameterNotFound",
    "ParameterVersionNotFound",
    "ValidationException",
}


class SecretResolver:
    """`SecretStore` over all the places that a reference can name. AWS is only spoken to when one names it."""

    def __init__(
        self,
        *,
        region: str,
        environment: Mapping[str, str] | None = None,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._region = region
        self._environment = os.environ if environment is None else environment
        self._monotonic_seconds = monotonic_seconds
        self._remembered: dict[tuple[SecretScheme, str], tuple[float, str]] = {}

    def resolve(self, reference: str) -> str:
        """Return the secret that a reference names; see `SecretStore`."""
        try:
            parsed = parse_reference(reference)
        except ValueError as error:
            raise SecretNotFound(str(error)) from None
        secret = self._looked_up(parsed)
        if parsed.field is not None:
            secret = _field_of(secret, parsed)
        if not secret:
            raise SecretNotFound(f"{parsed}: it is empty")
        return secret

    def _looked_up(self, reference: Reference) -> str:
        match reference.scheme:
            case SecretScheme.ENV:
                return self._from_environment(reference)
            case SecretScheme.FILE:
                return _from_file(reference)
            case SecretScheme.SECRETS_MANAGER:
                return self._remembering(reference, self._from_secrets_manager)
            case SecretScheme.SSM:
                return self._remembering(reference, self._from_ssm)

    def _from_environment(self, reference: Reference) -> str:
        secret = self._environment.get(reference.name)
        if secret is None:
            raise SecretNotFound(f"{reference}: the environment has no such variable")
        return secret

    def _remembering(self, reference: Reference, look_up: Callable[[Reference], str]) -> str:
        # By name, not by field: the fields of one secret belong together and cost one call.
        place = (reference.scheme, reference.name)
        now = self._monotonic_seconds()
        looked_up_at, secret = self._remembered.get(place, (now - CACHE_SECONDS, ""))
        if now - looked_up_at >= CACHE_SECONDS:
            secret = look_up(reference)
            self._remembered[place] = (now, secret)
        return secret

    def _from_secrets_manager(self, reference: Reference) -> str:
        with _translated(reference):
            answer = self._secrets_manager.get_secret_value(SecretId=reference.name)
        if "SecretString" not in answer:
            raise SecretNotFound(f"{reference}: should be text, found bytes")
        return answer["SecretString"]

    def _from_ssm(self, reference: Reference) -> str:
        with _translated(reference):
            return self._ssm.get_parameter(Name=reference.name, WithDecryption=True)["Parameter"]["Value"]

    @cached_property
    def _secrets_manager(self) -> "SecretsManagerClient":
        return boto3.session.Session().client("secretsmanager", region_name=self._region, config=_CONFIG)

    @cached_property
    def _ssm(self) -> "SSMClient":
        return boto3.session.Session().client("ssm", region_name=self._region, config=_CONFIG)


def _from_file(reference: Reference) -> str:
    try:
        with Path(reference.name).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretNotFound(f"{reference}: the file cannot be read: {error.strerror}") from error
    if len(content) > MAX_SECRET_BYTES:
        raise SecretNotFound(f"{reference}: should have at most {MAX_SECRET_BYTES} bytes, found more")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # Not kept as the cause: it holds the bytes.
        raise SecretNotFound(f"{reference}: should be UTF-8 text, found other bytes") from None


def _field_of(secret: str, reference: Reference) -> str:
    try:
        document = json.loads(secret)
    except ValueError:
        raise SecretNotFound(f"{reference}: should be a JSON object, found another text") from None
    if not isinstance(document, dict) or reference.field not in document:
        raise SecretNotFound(f"{reference}: the secret is no JSON object with that field")
    value = document[reference.field]
    if not isinstance(value, str):
        raise SecretNotFound(f"{reference}: the field should be text, found {type(value).__name__}")
    return value


@contextmanager
def _translated(reference: Reference) -> Generator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING_CODES:
            raise SecretNotFound(f"{reference}: AWS knows no such secret ({code})") from error
        raise Unavailable(f"{reference}: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"{reference}: {error}") from error
