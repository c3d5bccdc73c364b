"""What a test needs of the machine. Where it may be missing it is asked for here, and CI is told when it is."""

import os
from typing import NoReturn

import pytest

#: On the machine of a developer, who may lack a database server. CI sets none, and must have everything.
MAY_SKIP = "ESCLUSA_TESTS_MAY_SKIP"


def lacking(what: str, *, cure: str) -> NoReturn:
    """Skip the test if the machine may lack it, else fail: what was never run proves nothing."""
    told = f"this machine lacks {what}; {cure}"
    if os.environ.get(MAY_SKIP):
        pytest.skip(told)
    pytest.fail(f"{told}, or set {MAY_SKIP}=1 to do without", pytrace=False)
