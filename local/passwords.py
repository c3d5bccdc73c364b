"""The passwords of a local stack: random, made once, kept in one file that only its owner may read."""

import json
import secrets
from pathlib import Path

from local.processes import Home, write_privately
from shared.errors import ConfigurationError

PASSWORD_BYTES = 24


def password_file(home: Home) -> Path:
    """Return the file that holds the passwords."""
    return home.path / "secrets.json"


def read_or_create_password(home: Home, name: str) -> str:
    """
    Return the password `name`; the first call makes it. Call it under the home's lock.

    Raises:
        ConfigurationError: if the file is no JSON object of texts.
    """
    passwords = read_passwords(home)
    if name not in passwords:
        # Hexadecimal: it needs no quoting in a DSN, a shell or SQL.
        passwords[name] = secrets.token_hex(PASSWORD_BYTES)
        write_privately(password_file(home), json.dumps(passwords, indent=2) + "\n")
    return passwords[name]


def read_passwords(home: Home) -> dict[str, str]:
    """
    Return all passwords by name.

    Raises:
        ConfigurationError: if the file is no JSON object of texts.
    """
    file = password_file(home)
    try:
        passwords = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError(
            f"{file}: expected JSON, found something else; without it the data of this stack cannot be opened: "
            f"delete {home.path} to begin anew"
        ) from error
    if not isinstance(passwords, dict) or not all(isinstance(text, str) for text in passwords.values()):
        raise ConfigurationError(f"{file}: expected an object of texts; delete {home.path} to begin anew")
    return passwords
