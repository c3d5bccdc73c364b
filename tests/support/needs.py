"""What a test needs of the machine. Where it may be missing it is asked for here."""

import os
from typing import NoReturn

import pytest

#: Set by CI, which must have everything.
SKIP_NOTHING = "ESCLUSA_TESTS_SKIP_NOTHING"


def lacking(what: str, *, cure: str) -> NoReturn:
    """Skip a test that needs what this machine lacks; where nothing may be skipped, fail it."""
    told = f"this machine lacks {what}; {cure}"
    if os.environ.get(SKIP_NOTHING):
        pytest.fail(told, pytrace=False)
    pytest.skip(told)
