"""The command `esclusa sweep`: what it lists, what it does, and when it is worried."""

from dataclasses import replace

import pytest
from support.commands import Shell
from support.journey import MemoryJourney

from cli.output import ExitCode
from shared.domain.batches import Stage
from shared.domain.files import Area, Location, raw_key
from shared.errors import Unavailable


@pytest.fixture
def journey() -> MemoryJourney:
    return MemoryJourney()


@pytest.fixture
def shell(journey: MemoryJourney) -> Shell:
    """The command over the fleet of a journey."""
    return Shell(clock=journey.clock, ledger=journey.ledger, store=journey.store, queues=journey.queues)


def test_a_dry_run_lists_what_a_run_would_do_and_why_and_does_nothing(
    shell: Shell, journey: MemoryJourney
) -> None:
    stray = _leave_stray(journey)

    ended = shell.run("sweep", "--dry-run")

    assert ended.exit_code == ExitCode.OK
    (line,) = (line for line in ended.output.splitlines() if "delete_stray" in line and str(stray) in line)
    assert f"by extract attempt 1 of batch {journey.batch_id}; attempt 2 came after it" in line
    assert journey.store.head(stray)


def test_a_run_does_what_the_dry_run_listed(shell: Shell, journey: MemoryJourney) -> None:
    stray = _leave_stray(journey)
    listed = shell.run("sweep", "--dry-run", "--json").document

    done = shell.run("sweep", "--json").document

    assert (listed["is_dry_run"], done["is_dry_run"]) == (True, False)
    assert [item for item in done["actions"] if item["kind"] == "delete_stray"] == [
        item for item in listed["actions"] if item["kind"] == "delete_stray"
    ]
    assert done["counts"]["delete_stray"] == 1
    assert journey.store.head(stray) is None


def test_with_nothing_to_do_it_says_so(shell: Shell, journey: MemoryJourney) -> None:
    assert shell.run("sweep").output == "nothing to do\n"


def test_final_is_searched_only_by_a_deep_sweep(shell: Shell, journey: MemoryJourney) -> None:
    journey.plan()
    journey.put_by_hand("final/notes.csv")
    journey.clock.advance(hours=3)

    everyday = shell.run("sweep", "--json").document
    deep = shell.run("sweep", "--deep", "--json").document

    assert "set_aside" not in everyday["counts"]
    assert deep["counts"]["set_aside"] == 1


def test_only_the_bucket_of_the_named_source_is_searched(shell: Shell, journey: MemoryJourney) -> None:
    journey.plan()
    crm = replace(journey.contract.contract, origin=replace(journey.contract.contract.origin, source="crm"))
    with journey.ledger.transaction() as tx:
        tx.insert_contract(replace(journey.contract, contract=crm))
    journey.put_by_hand("tmp/notes.csv")
    journey.clock.advance(hours=3)

    of_crm = shell.run("sweep", "--source", "crm", "--json").document
    of_shop = shell.run("sweep", "--source", "shop", "--json").document

    assert "set_aside" not in of_crm["counts"]
    assert of_shop["counts"]["set_aside"] == 1


def test_a_source_that_the_ledger_does_not_know_is_not_found(shell: Shell) -> None:
    assert shell.run("sweep", "--source", "nowhere").exit_code == ExitCode.NOT_FOUND


def test_it_takes_away_no_more_than_its_limit_and_is_worried(shell: Shell, journey: MemoryJourney) -> None:
    journey.plan()
    for name in "abc":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)

    ended = shell.run("sweep", "--delete-limit", "2", "--json")

    assert ended.exit_code == ExitCode.PROBLEM
    assert ended.document["is_delete_limit_reached"]
    assert ended.document["counts"]["set_aside"] == 2
    assert "the delete limit is reached" in ended.errors


def test_the_limit_is_a_setting_if_none_is_given(shell: Shell, journey: MemoryJourney) -> None:
    journey.plan()
    journey.put_by_hand("tmp/a.csv")
    journey.clock.advance(hours=3)

    ended = shell.run("sweep", "--json", ESCLUSA_SWEEP_DELETE_LIMIT="0")

    assert ended.document["is_delete_limit_reached"]


def test_a_setting_that_is_wrong_is_named(shell: Shell) -> None:
    ended = shell.run("sweep", ESCLUSA_SWEEP_DELETE_LIMIT="many")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "ESCLUSA_SWEEP_DELETE_LIMIT" in ended.errors


def test_beside_another_sweep_it_does_nothing_and_that_is_no_error(
    shell: Shell, journey: MemoryJourney
) -> None:
    _leave_stray(journey)

    with journey.ledger.exclusively("sweep"):
        ended = shell.run("sweep", "--json")

    assert ended.exit_code == ExitCode.OK
    assert ended.document["skipped"] == ["sweep"]
    assert "delete_stray" not in ended.document["counts"]
    assert "another sweep is at it" in ended.errors


def test_objects_of_attempts_that_the_ledger_never_began_are_a_worry(
    shell: Shell, journey: MemoryJourney
) -> None:
    journey.plan()
    key = raw_key(Area.TMP, table="orders", batch_id="b" + "0" * 24, attempt=1, part=0)
    journey.put_by_hand(key)
    journey.clock.advance(hours=3)

    ended = shell.run("sweep")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "for batch b000000000000000000000000, which the ledger does not know" in ended.output
    assert "attempts that this ledger never began" in ended.errors
    assert key in journey.object_keys()


def test_a_bucket_that_does_not_answer_is_a_worry(
    shell: Shell, journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(bucket: str) -> None:
        raise Unavailable(f"s3://{bucket}/: no such bucket")

    journey.plan()
    monkeypatch.setattr(journey.memory, "open_uploads", away)

    ended = shell.run("sweep")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "esclusa-shop: not swept: s3://esclusa-shop/: no such bucket" in ended.errors


def test_batches_that_were_woken_again_and_again_are_named(shell: Shell, journey: MemoryJourney) -> None:
    journey.plan()
    patient = replace(journey.batch, wake_count=9)
    with journey.ledger.transaction() as tx:
        tx.save_batch(patient)
    journey.clock.advance(hours=3)

    ended = shell.run("sweep", "--json")

    assert ended.exit_code == ExitCode.OK
    assert ended.document["waiting_long"] == [journey.batch_id]
    assert journey.batch_id in ended.errors


def _leave_stray(journey: MemoryJourney) -> Location:
    """Let an attempt die after it wrote a file, and another one take over."""
    journey.plan()
    stray = journey.write_raw(journey.claim(Stage.EXTRACT), number=3)
    journey.clock.advance(hours=3)
    journey.claim(Stage.EXTRACT)
    return stray.location
