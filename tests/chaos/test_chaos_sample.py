"""
A few crash points on real processes, by chance, in every run of the tests. `make chaos` does all of them.

`CHAOS_SEED` chooses which, `CHAOS_SAMPLE` how many.
"""

import os
import random
from collections.abc import Iterator

import psycopg
import pytest
from chaos.controller import Controller, Effect, Fault, Mode
from chaos.fleet import chaos_fleet
from chaos.sweep import Sweep, all_trials, record, reproduction, sample
from chaos.trials import PLANNED, SMOOTH, Laboratory, Trial, modes_of
from psycopg import sql

from shared.domain.files import Area, Location

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
SAMPLE = int(os.environ.get("CHAOS_SAMPLE") or 6)


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Laboratory]:
    with chaos_fleet(source_count=6, with_large_tables=False) as fleet:
        yield Laboratory(fleet)


def test_whatever_side_effect_is_hit_the_batch_arrives_whole_and_nothing_is_left(
    laboratory: Laboratory,
) -> None:
    recorded = record(laboratory, [*SMOOTH, PLANNED])
    # Those that hit several batches take longer; `make chaos` does them.
    possible = [trial for trial in all_trials(recorded, each_occurrence=True) if not trial.may_hit_others]
    trials = sample(possible, seed=SEED, count=SAMPLE)

    outcomes = Sweep(laboratory, print).run(trials)

    failed = {reproduction(each.trial): each.complaints for each in outcomes if each.complaints}
    assert not failed, f"CHAOS_SEED={SEED}"
    assert sum(each.was_hit for each in outcomes) > SAMPLE // 2
    assert laboratory.fleet.reader.poll_count > SAMPLE


def test_what_is_not_well_is_told(laboratory: Laboratory) -> None:
    running = laboratory.run(None, profile=SMOOTH[0], source=laboratory.fleet.sources[0])
    store, bucket = laboratory.connection(running.source).store, laboratory.fleet.small.bucket(running.source)
    with psycopg.connect(laboratory.fleet.small.stack.warehouse_dsn) as connection:
        base = sql.Identifier(f"{running.source}__base", running.table)
        connection.execute(sql.SQL("DELETE FROM {} WHERE id = 7").format(base))
    (file,) = laboratory.fleet.small.files(running.batches()[0].id, areas=[Area.FINAL])
    store.delete(file.location)
    store.put(Location(bucket, f"final/{running.table}/stray"), b"", sha256=EMPTY_SHA256, metadata={})

    told = "\n".join(running.complaints())

    assert "59 rows in place of 60, 1 missing, 0 unexpected" in told
    assert "objects that the ledger does not name" in told
    assert "files of the ledger that the bucket does not hold" in told
    assert "the lake shows []" in told


EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_fault_hits_the_occurrence_and_the_batch_that_it_is_meant_for() -> None:
    effect = Effect("extractor", "s3 PutObject tmp/")
    control = Controller()
    fault = Fault(Mode.LOSE_REPLY, effect, batch_id="b2", occurrence=2)

    with control.faults(fault):
        verdicts = [
            (batch, control.answer(_question(effect, phase, batch, number)))
            for number, batch in enumerate(["b1", "b2", "b1", "b2", "b2"])
            for phase in ("before", "after")
        ]

    assert [verdict for _, verdict in verdicts] == ["go"] * 7 + ["lose_reply", "go", "go"]
    assert [seen.occurrence for seen in control.seen("b2")] == [1, 2, 3]


def _question(effect: Effect, phase: str, batch: str, number: int) -> dict[str, object]:
    return {
        "id": str(number),
        "pid": 1,
        "role": effect.role,
        "effect": effect.name,
        "tag": "",
        "phase": phase,
        "batches": [batch],
    }


@pytest.mark.parametrize("mode", Mode)
def test_the_name_of_a_trial_leads_back_to_it(mode: Mode) -> None:
    trial = Trial(
        SMOOTH[1], Effect("gate-tmp", "s3 CopyObject input/"), mode, occurrence=3, is_of_anybody=True
    )

    assert Trial.parse(trial.name) == trial


def test_no_transaction_is_sent_twice() -> None:
    assert Mode.DUPLICATE not in modes_of(Effect("extractor", "ledger claim"))
    assert Mode.DUPLICATE in modes_of(Effect("extractor", "sqs SendMessageBatch"))
