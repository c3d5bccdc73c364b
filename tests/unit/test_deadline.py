"""Waiting ends in time, and gives what was asked for if that came first."""

import threading
from datetime import timedelta

import pytest

from shared.deadline import within
from shared.errors import Unavailable

LONG, SHORT = timedelta(seconds=30), timedelta(milliseconds=50)


def test_an_answer_and_an_error_come_through() -> None:
    assert within(LONG, lambda: 7, what="an answer") == 7
    assert within(LONG, lambda: None, what="nothing") is None
    with pytest.raises(ZeroDivisionError):
        within(LONG, lambda: 1 // 0, what="an error")


@pytest.mark.timeout(20)
def test_what_takes_too_long_is_given_up_by_name() -> None:
    is_over = threading.Event()

    with pytest.raises(Unavailable, match=r"^the moon: no answer within 0\.05 seconds$"):
        within(SHORT, is_over.wait, what="the moon")

    is_over.set()
