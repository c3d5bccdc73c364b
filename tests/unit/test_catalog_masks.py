"""Masks in source files: which fit which columns, free text, and two keys."""

from pathlib import Path

import pytest
from support.iam import statements_of

from infra.plan import InlineCode, Plan
from infra.templates import shared_template
from shared.catalog import Catalog, read_sources
from shared.domain.contracts import Content, Mask, MaskKind, Truncation

SHOP = """\
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
mask_key: env:KEY_2
mask_key_id: k2
previous_mask_key: env:KEY_1
previous_mask_key_id: k1
tables:
  people:
    relation: public.people
    columns:
      id: {type: int64, nullable: false, mask: keep}
      email: {mask: {hmac: {domain: email}}}
      card: {mask: {hmac: {domain: card, key_id: k1}}}
      born_on: {type: date, mask: {truncate: month}}
      seen_at: {type: timestamptz, mask: {truncate: hour}}
      income: {type: "decimal(12,2)", mask: {bucket: 0.50}}
      points: {type: int16, mask: {bucket: 100}}
      notes: {content: free_text, mask: redact}
      updated_at: {type: timestamptz, nullable: false, mask: keep}
    key: [id]
    cursor: {column: updated_at, lag: 1m, overlap: 5m}
    publish: {mode: merge}
"""


def read(directory: Path, text: str) -> Catalog:
    (directory / "shop.yaml").write_text(text)
    return read_sources(directory)


def changed(old: str, new: str) -> str:
    assert old in SHOP
    return SHOP.replace(old, new)


def test_masks_with_parameters_become_those_of_the_contract(tmp_path: Path) -> None:
    (contract,) = read(tmp_path, SHOP).contracts()

    masks = {column.name: column.mask for column in contract.columns}
    assert masks["born_on"] == Mask(MaskKind.TRUNCATE, truncation=Truncation.MONTH)
    assert masks["seen_at"] == Mask(MaskKind.TRUNCATE, truncation=Truncation.HOUR)
    assert (masks["income"].kind, str(masks["income"].step)) == (MaskKind.BUCKET, "0.50")
    assert contract.column("notes").content is Content.FREE_TEXT
    assert {str(contract.column(name).output_type) for name in ("born_on", "income", "points")} == {
        "date",
        "decimal(12,2)",
        "int16",
    }


def test_a_mask_that_names_its_key_is_written_under_that_one_only(tmp_path: Path) -> None:
    (contract,) = read(tmp_path, SHOP).contracts()

    assert contract.origin.mask_keys == {"k2": "env:KEY_2", "k1": "env:KEY_1"}
    assert contract.column("card").mask.key_id == "k1"
    assert [column.name for column in contract.columns if column.made_from] == ["email__k1"]


def test_both_keys_are_among_the_secrets_that_a_source_needs(tmp_path: Path) -> None:
    assert read(tmp_path, SHOP).source("shop").references() == ["env:SHOP_DSN", "env:KEY_2", "env:KEY_1"]


def test_extractors_may_read_both_keys(tmp_path: Path) -> None:
    text = changed("mask_key: env:KEY_2", "mask_key: secretsmanager:keys/new#k").replace(
        "previous_mask_key: env:KEY_1", "previous_mask_key: secretsmanager:keys/old#k"
    )
    (contract,) = read(tmp_path, text).contracts()

    plan = Plan("esclusa", ledger_dsn="env:LEDGER", warehouse_dsn="env:WAREHOUSE", code=InlineCode())

    statements = statements_of(shared_template(plan, [contract.origin]), "extractor")

    (allowed,) = (statement for statement in statements if statement["Sid"] == "ReadSecrets")
    assert ["keys/new" in str(allowed["Resource"]), "keys/old" in str(allowed["Resource"])] == [True, True]


@pytest.mark.parametrize(
    "mask", ["keep", "last4", "{hmac: {domain: note}}", "{truncate: year}", "{bucket: 10}"]
)
def test_free_text_leaves_under_no_mask_that_lets_any_of_it_through(tmp_path: Path, mask: str) -> None:
    catalog = read(tmp_path, changed("free_text, mask: redact", f"free_text, mask: {mask}"))

    told = [str(problem) for problem in catalog.problems if "free text" in problem.expected]
    assert len(told) == 1
    assert (
        "shop.yaml:19: tables.people.columns.notes.mask: expected drop, withhold, redact or constant"
        in told[0]
    )


@pytest.mark.parametrize("mask", ["drop", "withhold", "redact", '{constant: ""}'])
def test_free_text_may_be_left_out_or_replaced(tmp_path: Path, mask: str) -> None:
    assert not read(tmp_path, changed("free_text, mask: redact", f"free_text, mask: {mask}")).problems


def test_free_text_without_a_mask_is_withheld(tmp_path: Path) -> None:
    catalog = read(tmp_path, changed("{content: free_text, mask: redact}", "{content: free_text}"))

    assert not catalog.problems
    assert catalog.contracts()[0].column("notes").mask.kind is MaskKind.WITHHOLD


PEOPLE = "tables.people.columns"


@pytest.mark.parametrize(
    ("old", "new", "field", "expected"),
    [
        # What fits which type.
        ("type: date, mask: {truncate: month}", "mask: {truncate: month}", f"{PEOPLE}.born_on.mask", "type date"),
        ("{truncate: month}", "{truncate: day}", f"{PEOPLE}.born_on.mask", "year or month for a date"),
        ("{truncate: month}", "{truncate: hour}", f"{PEOPLE}.born_on.mask", "year or month for a date"),
        ("{truncate: month}", "{truncate: week}", f"{PEOPLE}.born_on.mask.truncate", "'year', 'month', 'day'"),
        ("{truncate: month}", "{truncate: }", f"{PEOPLE}.born_on.mask", "{truncate: …}"),
        ("type: int16, mask", "type: float64, mask", f"{PEOPLE}.points.mask", "int64 or decimal"),
        ("type: int16, mask", "type: string, mask", f"{PEOPLE}.points.mask", "int64 or decimal"),
        ("{bucket: 100}", "{bucket: 10001}", f"{PEOPLE}.points.mask", "a tenth of what int16 holds"),
        ("{bucket: 100}", "{bucket: 0.5}", f"{PEOPLE}.points.mask", "no more than 0 digits"),
        ("{bucket: 0.50}", "{bucket: 0.001}", f"{PEOPLE}.income.mask", "no more than 2 digits"),
        ("{bucket: 0.50}", "{bucket: 1000000001}", f"{PEOPLE}.income.mask", "a tenth of what decimal(12,2) holds"),
        *(
            ("{bucket: 100}", f"{{bucket: {step}}}", f"{PEOPLE}.points.mask.bucket", "a number above 0")
            for step in ("0", "0.00", "-10", "1e3", "ten", "010", "[10]", "1_000", ".5")
        ),
        # Keys.
        ("mask_key: env:KEY_2\n", "", "mask_key", "the reference"),
        ("mask_key_id: k2\n", "", "mask_key_id", "the id under which mask_key"),
        ("previous_mask_key: env:KEY_1\n", "", "previous_mask_key", "the reference"),
        ("previous_mask_key_id: k1\n", "", "previous_mask_key_id", "the id under which previous_mask_key"),
        ("previous_mask_key_id: k1", "previous_mask_key_id: k2", "previous_mask_key_id", "another id"),
        ("previous_mask_key: env:KEY_1", "previous_mask_key: hunter2", "previous_mask_key", "env:"),
        ("key_id: k1}", "key_id: k3}", f"{PEOPLE}.card.mask.hmac.key_id", "k2 or k1"),
        ("id: {type: int64, nullable: false, mask: keep}", "id: {nullable: false, mask: {hmac: {domain: id}}}",
         f"{PEOPLE}.id.mask", "key_id: k1 in the mask of a key column"),
        ("      card:", "      EMAIL__k1: {mask: drop}\n      card:", f"{PEOPLE}.email", "no column 'email__k1'"),
        ("      email:", f"      {'é' * 62}: {{mask: {{hmac: {{domain: x}}}}}}\n      email:",
         f"{PEOPLE}.{'é' * 62}", "at most 127 bytes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_at_its_field(
    tmp_path: Path, old: str, new: str, field: str, expected: str
) -> None:
    problems = read(tmp_path, changed(old, new)).problems

    told = [problem for problem in problems if problem.field == field]
    assert any(expected in problem.expected for problem in told), problems
    assert "hunter2" not in str(problems)


def test_two_previous_keys_without_a_present_one_are_a_mistake(tmp_path: Path) -> None:
    problems = read(tmp_path, changed("mask_key: env:KEY_2\nmask_key_id: k2\n", "")).problems

    assert any(problem.expected.startswith("the key after previous_mask_key") for problem in problems)


def test_a_pseudonym_in_a_merge_key_that_names_its_key_is_sound_also_with_two_keys(tmp_path: Path) -> None:
    for key_id in ("k1", "k2"):
        catalog = read(
            tmp_path,
            changed(
                "id: {type: int64, nullable: false, mask: keep}",
                f"id: {{nullable: false, mask: {{hmac: {{domain: id, key_id: {key_id}}}}}}}",
            ),
        )

        assert not catalog.problems
        assert catalog.contracts()[0].column("id").mask.key_id == key_id


def test_other_keys_than_those_of_merges_rotate_like_any_column(tmp_path: Path) -> None:
    text = changed(
        "id: {type: int64, nullable: false, mask: keep}", "id: {nullable: false, mask: {hmac: {domain: id}}}"
    )
    text = text.replace("    cursor: {column: updated_at, lag: 1m, overlap: 5m}\n", "    cursor: none\n")

    (contract,) = read(tmp_path, text.replace("mode: merge", "mode: replace")).contracts()

    assert [column.name for column in contract.columns if column.made_from] == ["id__k1", "email__k1"]
