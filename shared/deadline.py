"""Waiting for others no longer than one can afford, whatever timeouts their libraries know."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from shared.errors import Unavailable

Answer = TypeVar("Answer")


def within(limit: timedelta, ask: Callable[[], Answer], *, what: str) -> Answer:
    """
    Return what a function returns, or raise what it raises, if it ends in time.

    Timeouts of sockets start anew with each byte, and looking up a name has none: whoever answers one byte a
    second holds them for ever. What does not end in time goes on in a thread that nobody waits for.

    Raises:
        Unavailable: if it does not end in time; the message begins with `what`.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised below, where somebody waits for it
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(limit.total_seconds())
    if errors:
        raise errors[0]
    if not answers:
        raise Unavailable(f"{what}: no answer within {limit.total_seconds():g} seconds")
    return answers[0]
