"""A contract survives its document, and equal contracts have one document."""

import json
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger_rows import a_contract

from shared.contract_document import from_json, sha256_of, to_json
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    Content,
    Cursor,
    DeleteMode,
    Deletes,
    KeyRanges,
    Mask,
    MaskKind,
    Normalization,
    Origin,
    Publishing,
    PublishMode,
    QuarantineLimits,
    SourceKind,
    TableContract,
    Target,
    Truncation,
)
from shared.domain.source_queries import Placeholder, SourceQuery
from shared.domain.windows import Schedule

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
mappings = st.dictionaries(texts, texts, max_size=4)
durations = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000))
types = st.one_of(
    st.builds(ColumnType, st.sampled_from([kind for kind in ColumnKind if kind is not ColumnKind.DECIMAL])),
    st.builds(ColumnType, st.just(ColumnKind.DECIMAL), st.integers(1, 38), st.integers(0, 38)),
)
masks = st.builds(
    Mask,
    st.sampled_from(MaskKind),
    texts,
    st.sampled_from(Normalization),
    texts,
    texts,
    st.none() | st.sampled_from(Truncation),
    st.none() | st.decimals(min_value=0, allow_nan=False, allow_infinity=False),
)
columns = st.builds(Column, texts, types, masks, st.booleans(), texts, texts, st.sampled_from(Content), texts)
contracts = st.builds(
    TableContract,
    origin=st.builds(Origin, texts, st.sampled_from(SourceKind), mappings, mappings),
    table=texts,
    relation=st.lists(texts, max_size=3).map(tuple),
    columns=st.lists(columns, max_size=4).map(tuple),
    key=st.lists(texts, max_size=3).map(tuple),
    cursor=st.none() | st.builds(Cursor, texts, durations, durations),
    schedule=st.builds(Schedule, durations, durations, st.integers(1, 1000)),
    publishing=st.builds(Publishing, st.sampled_from(PublishMode), st.sampled_from(Target), st.booleans()),
    deletes=st.builds(Deletes, st.sampled_from(DeleteMode), texts),
    limits=st.builds(QuarantineLimits, st.integers(0, 10**9), st.floats(0, 1)),
    options=mappings,
    key_ranges=st.none() | st.builds(KeyRanges, st.integers(1, 10**6)),
    query=st.none()
    | st.builds(
        SourceQuery,
        st.lists(texts, min_size=1, max_size=3).map(tuple),
        st.just((Placeholder.WINDOW_END,)),
        texts,
    ),
)


def classes_within(value: object) -> set[str]:
    """Return the types of everything in a contract."""
    found = {type(value).__name__}
    if is_dataclass(value):
        for field in fields(value):
            found |= classes_within(getattr(value, field.name))
    elif isinstance(value, tuple):
        found |= {name for item in value for name in classes_within(item)}
    return found


@given(contracts)
def test_a_contract_comes_back_from_its_document(contract: TableContract) -> None:
    returned = from_json(to_json(contract))

    assert returned == contract
    assert classes_within(returned) == classes_within(contract)


@given(contracts)
def test_a_document_is_the_same_after_every_round(contract: TableContract) -> None:
    document = to_json(contract)

    assert to_json(from_json(document)) == document
    assert sha256_of(from_json(document)) == sha256_of(contract)


@given(contracts, contracts)
def test_two_contracts_have_one_hash_only_if_they_are_equal(one: TableContract, other: TableContract) -> None:
    assert (sha256_of(one) == sha256_of(other)) == (one == other)


def test_the_order_in_which_settings_were_written_does_not_matter() -> None:
    contract = a_contract().contract

    one = replace(contract, options={"page": "1", "size": "2"})
    other = replace(contract, options={"size": "2", "page": "1"})

    assert to_json(one) == to_json(other)


def test_the_order_of_columns_does_matter() -> None:
    contract = a_contract(version=2).contract

    assert sha256_of(replace(contract, columns=contract.columns[::-1])) != sha256_of(contract)


def test_a_document_is_plain_ascii_with_sorted_names_and_no_spaces() -> None:
    document = to_json(replace(a_contract().contract, table="übersicht"))

    assert document.isascii()
    assert document == json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"))


def test_a_hash_does_not_move_from_one_release_to_the_next() -> None:
    """Else every table would get a new version of an unchanged contract."""
    assert (
        sha256_of(a_contract().contract) == "1054ddcb8bd4497c669b5fc2fdb77dab31e35d823d469bdcabbf16be5f71b518"
    )


def test_a_document_from_before_a_setting_existed_takes_its_default() -> None:
    fields_of_old: dict[str, Any] = json.loads(to_json(a_contract().contract))
    del fields_of_old["limits"]

    assert from_json(json.dumps(fields_of_old)).limits == QuarantineLimits()


@pytest.mark.parametrize("path", [(), ("publishing",), ("origin",), ("columns", 0)])
def test_a_setting_of_a_newer_version_is_refused_and_not_passed_over(path: tuple[str | int, ...]) -> None:
    """Of a snapshot that is read by ranges, say, who passes over the ranges would publish a part as the whole."""
    document: Any = json.loads(to_json(a_contract().contract))
    part = document
    for step in path:
        part = part[step]
    part["of_next_year"] = True

    with pytest.raises(ValueError, match="of_next_year"):
        from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"table": 1}'])
def test_what_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)
