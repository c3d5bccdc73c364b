"""One test against one of several local AWS servers."""

import os

import pytest

from local import aws


def use_aws_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let every boto3 client that this test makes speak to the server at `url`; return the region."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = aws.client_environment(int(url.rpartition(":")[2]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment["AWS_DEFAULT_REGION"]
