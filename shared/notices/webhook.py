"""
Notices by HTTP: one POST, signed if there is a key, as the specification "Standard Webhooks" has it.

Source: https://www.standardwebhooks.com (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`). Libraries
that check such a signature exist for most languages.
"""

import base64
import binascii
import hashlib
import hmac
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from shared.deadline import within
from shared.errors import SecretNotFound, Unavailable
from shared.notices.document import notice_document
from shared.ports import Notice, SecretStore

#: Of a connect, and of each read.
_SOCKET_TIMEOUT_SECONDS: Final = 5.0
#: Of the whole, however slowly its bytes come.
PATIENCE: Final = timedelta(seconds=8)

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

#: How the specification marks a key that is written in base64.
_KEY_PREFIX: Final = "whsec_"


class Webhook:
    """
    `Notifier` that posts to a URL.

    Both references are resolved at each notice, for a URL may be changed and a key rotated while the process
    lives. A URL of a webhook is a secret itself: no message shows it.
    """

    def __init__(
        self,
        url_reference: str,
        *,
        key_reference: str | None,
        secrets: SecretStore,
        seconds_since_epoch: Callable[[], float] = time.time,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._url_reference = url_reference
        self._key_reference = key_reference
        self._secrets = secrets
        self._seconds_since_epoch = seconds_since_epoch
        self._patience = patience
        # Nothing of ours follows a redirect: the notice is for the one whom the URL names.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def notify(self, notice: Notice) -> None:
        """Deliver a notice: any answer 2xx is a success; see `Notifier`."""
        within(self._patience, lambda: self._post(notice), what=self._name)

    @property
    def _name(self) -> str:
        return f"webhook {self._url_reference}"

    def _post(self, notice: Notice) -> None:
        url = self._secrets.resolve(self._url_reference).strip()
        self._require_private(url)
        body = notice_document(notice).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "esclusa", **self._signed(notice, body)}
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - see above
        try:
            with self._opener.open(request, timeout=_SOCKET_TIMEOUT_SECONDS) as answer:
                status: int = answer.status
        except urllib.error.HTTPError as error:
            error.close()
            raise Unavailable(f"{self._name}: expected an answer 2xx, found {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            # Not its text, nor itself as the cause: both may show the URL.
            raise Unavailable(f"{self._name}: no answer ({_kind_of(error)})") from None
        if not 200 <= status < 300:
            raise Unavailable(f"{self._name}: expected an answer 2xx, found {status}")

    def _require_private(self, url: str) -> None:
        if not _is_private(url):
            raise SecretNotFound(
                f"{self._name}: expected a URL that begins with https:// (http:// to this machine only), "
                "found another text (not shown); correct the secret"
            )

    def _signed(self, notice: Notice, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._seconds_since_epoch()))
        headers = {"webhook-id": notice.id, "webhook-timestamp": timestamp}
        if self._key_reference is not None:
            key = _key_bytes(self._secrets.resolve(self._key_reference), name=self._key_reference)
            signed = b".".join((notice.id.encode(), timestamp.encode(), body))
            digest = hmac.new(key, signed, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a redirect be an answer like any other: no success."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""
        return


def _is_private(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False  # its text quotes the URL
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    return is_safe and bool(parts.hostname)


def _key_bytes(secret: str, *, name: str) -> bytes:
    if not secret.startswith(_KEY_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_KEY_PREFIX), validate=True)
    except binascii.Error:
        raise SecretNotFound(f"{name}: expected base64 after {_KEY_PREFIX}, found another text") from None


def _kind_of(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return type(reason).__name__ if isinstance(reason, BaseException) else "URLError"
