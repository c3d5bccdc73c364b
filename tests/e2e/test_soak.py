"""
Everything at once, for a while: `make soak` for half an hour, in every test run for less than a minute.

ESCLUSA_SOAK_SECONDS says how long, ESCLUSA_SOAK_SEED repeats the choices of a run.
"""

import logging
import os
import random

import pytest
import structlog
from support.at_rest import assert_clean_at_rest, attempts_per_stage
from support.fleet import SmallFleet
from support.soak import Soak

SECONDS = float(os.environ.get("ESCLUSA_SOAK_SECONDS", "40"))
SEED = int(os.environ.get("ESCLUSA_SOAK_SEED", str(random.randrange(1_000_000))))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 600)]


def test_after_a_soak_under_kills_and_doubled_messages_nothing_is_missing_and_the_ledger_is_clean(
    fleet: SmallFleet,
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    fleet.move_everything()
    soak = Soak(fleet, SEED)
    print(f"seed {SEED}")

    soak.run(seconds=SECONDS)

    assert not soak.failures
    fleet.wait_until_at_rest()
    fleet.move_everything()
    fleet.assert_all_equal("shop")
    fleet.assert_all_equal("crm")
    assert_clean_at_rest(fleet, "shop", "crm")
    assert not soak.partial_reads
    assert soak.done["reads"] > 0
    print({f"{stage} {state}": count for (stage, state), count in sorted(attempts_per_stage(fleet).items())})
