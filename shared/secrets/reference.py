"""References to secrets: `env:NAME`, `file:PATH`, `secretsmanager:NAME#FIELD`, `ssm:NAME`."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class SecretScheme(StrEnum):
    """Where a secret is kept."""

    #: A variable of the environment.
    ENV = "env"
    #: A mounted file; one line break at its end does not count.
    FILE = "file"
    #: A secret of AWS Secrets Manager; with `#FIELD`, one text field of the JSON object it holds.
    SECRETS_MANAGER = "secretsmanager"
    #: A parameter of AWS Systems Manager, decrypted.
    SSM = "ssm"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is found. It holds nothing secret itself."""

    scheme: SecretScheme
    name: str
    #: Only of Secrets Manager; None for the whole text of the secret.
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}" + (f"#{self.field}" if self.field is not None else "")


#: What may follow each scheme, and how to say so.
#: Sources: Secrets Manager API Reference, `CreateSecret`; Systems Manager User Guide, "Parameter names".
_FORMS: Final = {
    SecretScheme.ENV: (r"(?P<name>[A-Za-z_][A-Za-z0-9_]{0,254})", "env:NAME, such as env:SHOP_DSN"),
    SecretScheme.FILE: (
        r"(?P<name>[^\x00-\x1f\x7f]{1,4096})",
        "file:PATH, such as file:/run/secrets/shop_dsn",
    ),
    SecretScheme.SECRETS_MANAGER: (
        r"(?P<name>[A-Za-z0-9/_+=.@:-]{1,512})(?:#(?P<field>[A-Za-z0-9_.-]{1,256}))?",
        "secretsmanager:NAME#FIELD, such as secretsmanager:esclusa/shop#dsn",
    ),
    SecretScheme.SSM: (r"(?P<name>[A-Za-z0-9/_.:-]{1,1011})", "ssm:NAME, such as ssm:/esclusa/shop/dsn"),
}


def parse_reference(text: str) -> Reference:
    """
    Read a reference.

    >>> str(parse_reference("secretsmanager:esclusa/shop#dsn"))
    'secretsmanager:esclusa/shop#dsn'

    Raises:
        ValueError: says what was expected. What was found is never shown: it may be the secret itself.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in set(SecretScheme):
        forms = ", ".join(form.split(",", 1)[0] for _, form in _FORMS.values())
        raise ValueError(
            f"expected a reference to a secret ({forms}), found another text"
            " (not shown, it may be a secret); put the secret into one of these places and name it here"
        )
    pattern, form = _FORMS[SecretScheme(scheme)]
    match = re.fullmatch(pattern, rest)
    if match is None:
        raise ValueError(f"expected {form}; found something else after '{scheme}:' (not shown)")
    return Reference(SecretScheme(scheme), match["name"], match.groupdict().get("field"))
