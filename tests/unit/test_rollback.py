"""Rollback: a table as it was, from its committed files, and forward again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.lake_house import LakeHouse
from support.publish_batches import APPEND, MERGE, REPLACE, at

from services.publisher.publish import publish
from services.publisher.restore import restore_catalog
from shared.domain.batches import Attempt, AttemptState, BatchState, Stage
from shared.domain.contracts import Target
from shared.domain.reasons import Reason
from shared.errors import LostLease, Refused, Unavailable
from shared.rollbacks import rollback_of
from shared.stage import Assignment
from shared.visible import published_batches
from upkeep import compact
from upkeep.rollback import Tools, carry_out, plan_forward, plan_rollback

ANNA, BERT, ANNE, CLARA = (1, "Anna", at(1)), (2, "Bert", at(2)), (1, "Anne", at(16)), (3, "Clara", at(17))


@pytest.fixture
def house() -> LakeHouse:
    return LakeHouse()


def tools_of(house: LakeHouse) -> Tools:
    return Tools(house.ledger, house.store, house.published.warehouse, house.catalog)


def back(house: LakeHouse, to):
    plan = plan_rollback("shop", "orders", to=to, tools=tools_of(house))
    return carry_out(plan, tools=tools_of(house), actor="anna", detail="a bad release")


def forward(house: LakeHouse):
    plan = plan_forward("shop", "orders", tools=tools_of(house))
    return carry_out(plan, tools=tools_of(house), actor="anna", detail="mended")


def publish_two(house: LakeHouse, contract):
    first = house.publish([ANNA, BERT], contract, quarter=1)
    house.clock.moment += timedelta(minutes=15)
    second = house.publish([ANNE, CLARA], contract, quarter=2)
    return first, second


@pytest.mark.parametrize("contract", [APPEND, MERGE, REPLACE], ids=["append", "merge", "replace"])
def test_table_and_lake_are_as_they_were_after_a_batch_and_forward_again(house, contract):
    house.publish([ANNA, BERT], contract, quarter=1)
    then = house.rows(), house.lake_rows()
    first = max(house.ledger._tables.batches)
    house.clock.moment += timedelta(minutes=15)
    house.publish([ANNE, CLARA], contract, quarter=2)
    now = house.rows(), house.lake_rows()

    rollback, rebuilt = back(house, first)
    was = house.rows(), house.lake_rows()
    forward(house)

    assert was == then != now
    assert (house.rows(), house.lake_rows()) == now
    assert (rollback.actor, rollback.detail, rollback.last_batch_id) == ("anna", "a bad release", first)
    assert rebuilt.row_count == 2


def test_a_table_that_is_replaced_by_now_goes_back_to_when_it_was_merged(house):
    merged, replaced = (
        replace(contract, publishing=replace(contract.publishing, target=Target.NATIVE))
        for contract in (MERGE, REPLACE)
    )
    _, second = publish_two(house, merged)
    then = house.rows()
    house.clock.moment += timedelta(minutes=15)
    house.publish([(4, "Dora", at(31))], replaced, quarter=3, version=2)

    back(house, second.id)
    was = house.rows()
    forward(house)

    assert was == then
    assert house.rows() == [(4, "Dora", at(31))]


def test_an_external_table_is_not_led_back_beyond_a_change_of_its_mode(house):
    _, second = publish_two(house, MERGE)
    house.clock.moment += timedelta(minutes=15)
    house.catalog.tables.clear()
    house.publish([(4, "Dora", at(31))], REPLACE, quarter=3, version=2)
    before = house.rows()

    with pytest.raises(Refused, match="published by merge then, and is by replace now"):
        back(house, second.id)

    assert house.rows() == before


def test_a_table_goes_back_to_a_moment(house):
    first, second = publish_two(house, MERGE)

    back(house, second.changed_at - timedelta(minutes=1))

    assert house.rows() == [ANNA, BERT]
    with house.ledger.transaction() as tx:
        assert [batch.id for batch in published_batches(tx, "shop", "orders")] == [first.id]


def test_it_may_go_further_back_and_a_part_of_the_way_forward(house):
    first, second = publish_two(house, MERGE)
    house.clock.moment += timedelta(minutes=15)
    house.publish([(4, "Dora", at(31))], quarter=3)

    back(house, second.id)
    back(house, first.id)
    earliest = house.rows()
    back(house, second.id)

    assert earliest == [ANNA, BERT]
    assert house.rows() == sorted([ANNE, BERT, CLARA], key=repr)


def test_what_comes_meanwhile_is_held_and_replayed_on_the_way_forward(house):
    first, _ = publish_two(house, MERGE)
    back(house, first.id)
    third = house.published.batch([(4, "Dora", at(31))], quarter=3)

    with pytest.raises(Refused) as refused:
        house.publish_load(third)
    hold(house, third.batch_id)
    forward(house)

    assert refused.value.reason is Reason.ROLLED_BACK
    with house.ledger.transaction() as tx:
        assert tx.batch(third.batch_id).state is BatchState.COMMITTED


def hold(house: LakeHouse, batch_id: str) -> None:
    """Have the ledger hold a batch as a publisher would."""
    tables = house.ledger._tables
    batch = tables.batches[batch_id]
    tables.batches[batch_id] = replace(batch, state=BatchState.QUARANTINED, reason=Reason.ROLLED_BACK)
    last = tables.events[batch_id][-1]
    tables.events[batch_id].append(
        replace(last, sequence=2, from_state=BatchState.PUBLISHING, to_state=BatchState.QUARANTINED)
    )


def test_a_table_of_the_lake_alone_takes_no_batch_meanwhile(house):
    contract = replace(MERGE, publishing=replace(MERGE.publishing, target=Target.EXTERNAL))
    first, _ = publish_two(house, contract)

    rollback, rebuilt = back(house, first.id)

    assert rebuilt is None
    assert house.lake_rows() == [ANNA, BERT]
    load = house.published.batch([CLARA], contract, quarter=3)
    attempt = Attempt("b", Stage.PUBLISH, 1, "w", AttemptState.RUNNING, house.clock(), house.clock())
    with house.ledger.transaction() as tx:
        held = Assignment(attempt, tx.batch(first.id), contract, load.files, rollback_id=rollback.id)
    with pytest.raises(Refused, match="--forward"):
        publish(held, warehouse=house.published.warehouse, catalog=house.catalog)


def test_a_state_whose_files_are_gone_is_refused_and_nothing_changes(house):
    first, _ = publish_two(house, MERGE)
    before = house.rows(), house.lake_rows()
    with house.ledger.transaction() as tx:
        file = tx.files(batch_id=first.id)[0]
        tx.save_file(replace(file, deleted_at=tx.now()))

    with pytest.raises(Refused, match="1 files that this state is made of are gone") as refused:
        back(house, first.id)

    assert refused.value.reason is Reason.OBJECT_MISSING
    assert str(file.location) in refused.value.detail
    assert (house.rows(), house.lake_rows()) == before
    with house.ledger.transaction() as tx:
        assert rollback_of(tx, "shop", "orders") is None


def test_a_state_before_everything_or_of_now_or_of_an_unknown_batch_is_refused_by_name(house):
    _, second = publish_two(house, MERGE)

    with pytest.raises(
        Refused, match="nothing was published by then; the first batch was published at 2026-11-23"
    ):
        back(house, house.clock.moment - timedelta(days=30))
    with pytest.raises(Refused, match="in that state already"):
        back(house, second.id)
    with pytest.raises(KeyError, match="no batch 'b0'"):
        back(house, "b0")


def test_rows_that_lie_in_the_file_of_a_compaction_come_back(house):
    publish_two(house, MERGE)
    compact_all(house)
    before = house.rows(), house.lake_rows()
    house.clock.moment += timedelta(minutes=15)
    third = house.publish([(2, "Berta", at(31))], quarter=3)

    back(house, third.changed_at - timedelta(minutes=1))

    assert (house.rows(), house.lake_rows()) == before
    forward(house)
    assert len(house.lake_rows()) == 5


def test_a_batch_does_not_leave_the_file_that_it_shares_with_one_that_stays(house):
    first, _ = publish_two(house, MERGE)
    (compaction,) = compact_all(house)

    with pytest.raises(Refused, match=f"esclusa compact shop.orders --undo {compaction.id}"):
        back(house, first.id)

    compact.undo(compaction.id, tools=compact.Tools(house.ledger, house.store, house.catalog), detail="")
    back(house, first.id)
    assert house.lake_rows() == [ANNA, BERT]


def test_a_table_held_at_an_earlier_state_is_not_compacted(house):
    first, _ = publish_two(house, MERGE)
    back(house, first.id)

    with pytest.raises(Refused, match="--forward"):
        compact_all(house)


def compact_all(house: LakeHouse):
    tools = compact.Tools(house.ledger, house.store, house.catalog)
    groups = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)
    return [compact.compact_group(group, tools=tools, detail="test") for group in groups]


def test_a_catalog_that_lost_its_memory_shows_the_earlier_state_again(house):
    first, _ = publish_two(house, MERGE)
    back(house, first.id)
    house.catalog.tables.clear()
    house.catalog.batches.clear()

    restore_catalog(ledger=house.ledger, catalog=house.catalog)

    assert house.lake_rows() == [ANNA, BERT]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("effect", ["rebuild", "switch_partitions"])
def test_a_run_that_dies_is_repeated_under_its_name_and_nothing_is_done_twice(house, effect, before):
    first, _ = publish_two(house, MERGE)
    owner = house.catalog if effect == "switch_partitions" else house.published.warehouse
    original = getattr(owner, effect)

    def once(*args):
        delattr(owner, effect)
        if not before:
            original(*args)
        raise Unavailable("away")

    setattr(owner, effect, once)
    with pytest.raises(Unavailable):
        back(house, first.id)

    rollback, rebuilt = back(house, first.id)

    assert house.rows() == house.lake_rows() == [ANNA, BERT]
    with house.ledger.transaction() as tx:
        assert tx.rollbacks("shop", "orders") == [rollback]
    assert rebuilt.was_done_before is (effect == "switch_partitions" or not before)


def test_a_batch_that_was_loaded_and_never_published_is_loaded_again_by_its_next_attempt(house):
    first, _ = publish_two(house, MERGE)
    load = house.published.batch([(4, "Dora", at(31))], quarter=3)
    house.publish_load(load)
    hold(house, load.batch_id)

    back(house, first.id)
    forward(house)
    result = house.published.warehouse.load(replace(load, attempt=2))

    assert not result.was_loaded_before
    assert (4, "Dora", at(31)) in house.rows()


def have(house: LakeHouse, batch_id: str, **changes) -> None:
    """Have the ledger say something else of a batch."""
    batches = house.ledger._tables.batches
    batches[batch_id] = replace(batches[batch_id], **changes)


def test_a_batch_that_is_loaded_before_the_rebuild_begins_and_never_published_is_loaded_again(house):
    publish_two(house, MERGE)
    load = house.published.batch([(4, "Dora", at(31))], quarter=3)
    house.publish_load(load)
    claimed_after_the_plan = {Stage.EXTRACT: 1, Stage.PROCESS: 1}
    have(house, load.batch_id, state=BatchState.COMMITTED, attempts=claimed_after_the_plan)

    forward(house)
    result = house.published.warehouse.load(replace(load, attempt=2))

    assert not result.was_loaded_before
    assert (4, "Dora", at(31)) in house.rows()


def test_a_batch_that_is_loaded_and_about_to_be_published_is_waited_for(house):
    publish_two(house, MERGE)
    load = house.published.batch([(4, "Dora", at(31))], quarter=3)
    house.publish_load(load)
    have(house, load.batch_id, state=BatchState.PUBLISHING)

    for _ in range(2):
        with pytest.raises(Unavailable, match=f"batch {load.batch_id} is being published"):
            forward(house)
    have(house, load.batch_id, state=BatchState.PUBLISHED, changed_at=house.clock())
    forward(house)

    assert (4, "Dora", at(31)) in house.rows()
    with house.ledger.transaction() as tx:
        (rollback,) = tx.rollbacks("shop", "orders")
    assert rollback.done_at


@pytest.mark.parametrize("way", ["back", "forward"])
def test_a_batch_that_is_published_between_plan_and_rebuild_is_noticed_and_taken_in(house, way):
    first, _ = publish_two(house, MERGE)
    plan = (
        plan_rollback("shop", "orders", to=first.id, tools=tools_of(house))
        if way == "back"
        else plan_forward("shop", "orders", tools=tools_of(house))
    )
    house.publish([(4, "Dora", at(31))], quarter=3)

    with pytest.raises(Unavailable, match="was published meanwhile"):
        carry_out(plan, tools=tools_of(house), actor="anna", detail="")
    if way == "back":
        back(house, first.id)
        assert house.rows() == house.lake_rows() == [ANNA, BERT]
    forward(house)

    assert house.rows() == sorted([ANNE, BERT, CLARA, (4, "Dora", at(31))], key=repr)


def test_a_compaction_that_was_begun_before_is_not_committed_into_a_table_that_went_back(house):
    first, _ = publish_two(house, MERGE)
    (group,) = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)
    back(house, first.id)

    with pytest.raises(LostLease, match="earlier state"):
        compact.compact_group(
            group, tools=compact.Tools(house.ledger, house.store, house.catalog), detail="late"
        )

    assert house.lake_rows() == [ANNA, BERT]


def test_a_compaction_that_was_committed_after_the_plan_is_noticed(house):
    first, _ = publish_two(house, MERGE)
    plan = plan_rollback("shop", "orders", to=first.id, tools=tools_of(house))
    compact_all(house)

    with pytest.raises(Refused, match="--undo"):
        carry_out(plan, tools=tools_of(house), actor="anna", detail="")

    assert len(house.lake_rows()) == 4
