"""Secrets from a mapping, for tests and the simulation."""

from collections.abc import Mapping

from shared.errors import SecretNotFound
from shared.secrets.reference import parse_reference


class MemorySecrets:
    """`SecretStore` over a mapping from reference to secret."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = {str(parse_reference(reference)): value for reference, value in secrets.items()}

    def resolve(self, reference: str) -> str:
        """Return the secret that a reference names; see `SecretStore`."""
        try:
            parsed = parse_reference(reference)
        except ValueError as error:
            raise SecretNotFound(str(error)) from None
        secret = self._secrets.get(str(parsed))
        if not secret:
            raise SecretNotFound(f"{parsed}: nothing is there, or it is empty")
        return secret
