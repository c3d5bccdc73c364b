"""Signs of personal data: in names, in values, and none where there is none."""

import pytest

from services.extractor.personal_signs import (
    look_like_codes,
    look_like_free_text,
    sign_in_name,
    sign_in_values,
)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("email", "an e-mail address"),
        ("customerEmail", "an e-mail address"),
        ("HOME_PHONE", "a phone number"),
        ("first_name", "a person's name"),
        ("FullName", "a person's name"),
        ("birth_date", "a date of birth"),
        ("dob", "a date of birth"),
        ("national_id", "an official number"),
        ("ssn", "an official number"),
        ("iban", "a bank account or card"),
        ("client_ip", "an address of a device"),
        ("shipping_address", "an address"),
        ("api_key", "a secret"),
        ("access_token", "a secret"),
        ("internal_notes", "free text"),
        ("salary", "a person's income"),
    ],
)
def test_a_name_that_speaks_of_a_person_is_a_sign(name: str, sign: str) -> None:
    assert sign_in_name(name) == sign


@pytest.mark.parametrize(
    "name",
    ["order_id", "quantity", "updated_at", "email_verified", "address_id", "note_count", "páis", "1", ""],
)
def test_other_names_are_no_sign(name: str) -> None:
    assert sign_in_name(name) is None


@pytest.mark.parametrize(
    ("value", "sign"),
    [
        ("ana@example.org", "e-mail addresses"),
        ("please write to ana@example.org soon", "e-mail addresses"),
        ("+34 600 123 456", "phone numbers"),
        ("(020) 7946-0123", None),
        ("020 7946 0123", "phone numbers"),
        ("2026-11-22", None),
        ("123456789012", None),
        ("a @ b", None),
    ],
)
def test_the_shape_of_a_value_is_a_sign(value: str, sign: str | None) -> None:
    assert sign_in_values([None, "", value]) == sign


def test_codes_are_short_words_without_a_sign() -> None:
    assert look_like_codes(["SKU-000001", "SKU-000002", None])
    assert not look_like_codes(["SKU-000001", "ana@example.org"])
    assert not look_like_codes(["two words"])
    assert not look_like_codes([None])


@pytest.mark.parametrize(
    "value",
    ["Dear team,\nplease call", "  please call her sister back before the end of this week  "],
)
def test_several_lines_or_many_words_look_like_free_text(value: str) -> None:
    assert look_like_free_text([None, "short", value])


@pytest.mark.parametrize(
    "value",
    [
        "12 High Street, Flat 3, Springfield",
        "Lamp\n",
        '{"a": "one two three four five six seven eight nine"}',
        "[1,\n2]",
        "",
    ],
)
def test_one_thing_and_structures_do_not_look_like_free_text(value: str) -> None:
    assert not look_like_free_text([None, value])
