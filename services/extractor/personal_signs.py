"""
Signs that a column holds personal data: its name, its type, the shape of its values.

Signs are no proof, and their absence is none either. So only columns of types that can hardly hold a person
are left to leave at first; every text is withheld until somebody has looked.
"""

import re
from collections.abc import Iterable
from itertools import pairwise

#: Words in a column's name, and what they stand for. A name counts as words: `homePhone2` is home, phone, 2.
_WORDS = {
    "a person's name": "surname forename firstname lastname fullname nickname maiden username login initials",
    "an e-mail address": "email mail",
    "a phone number": "phone telephone tel mobile cell fax msisdn whatsapp",
    "an address": "address street city town zip zipcode postcode postal house apartment district",
    "a place": "lat latitude lon lng longitude geo location coordinates gps",
    "a date of birth": "birth birthday birthdate dob born age",
    "a sensitive trait": "gender sex religion ethnicity nationality marital disability health",
    "an official number": "ssn nin nif dni nie passport licence license tax vat national nhs insurance",
    "a bank account or card": "iban bic swift account card pan cvv cvc sortcode",
    "a person's income": "salary wage income",
    "an address of a device": "ip ipaddress mac imei imsi device useragent",
    "a secret": "password passwd pwd passphrase token secret apikey credentials salt hash pin otp cookie",
    "free text": "note notes comment comments remark remarks message memo description bio feedback text body",
}
_REASON_OF_WORD = {word: reason for reason, words in _WORDS.items() for word in words.split()}
_PAIRS = {
    ("first", "name"): "a person's name",
    ("last", "name"): "a person's name",
    ("full", "name"): "a person's name",
    ("family", "name"): "a person's name",
    ("given", "name"): "a person's name",
    ("middle", "name"): "a person's name",
    ("user", "name"): "a person's name",
    ("display", "name"): "a person's name",
    ("user", "agent"): "an address of a device",
    ("api", "key"): "a secret",
    ("private", "key"): "a secret",
}

# Words of names that stand for a number beside the thing and not for the thing.
_HARMLESS_ENDS = {"id", "count", "at", "on", "sent", "verified", "confirmed", "enabled", "valid"}

_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"\+?[0-9][0-9 ().\-/]{5,22}[0-9]")
_MANY_DIGITS = range(9, 16)
#: An address or a title has fewer words.
_WORDS_OF_FREE_TEXT = 8
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")


def sign_in_name(name: str) -> str | None:
    """
    Return what a column's name says it holds of a person, or None.

    >>> sign_in_name("homePhone2"), sign_in_name("BIRTH_DATE"), sign_in_name("quantity")
    ('a phone number', 'a date of birth', None)
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    for pair in pairwise(words):
        if pair in _PAIRS:
            return _PAIRS[pair]
    if len(words) > 1 and words[-1] in _HARMLESS_ENDS and not {"national", "tax", "device"} & set(words):
        return None
    return next((_REASON_OF_WORD[word] for word in words if word in _REASON_OF_WORD), None)


def sign_in_values(values: Iterable[str | None]) -> str | None:
    """
    Return what some values look like, or None. No value is in the answer.

    >>> sign_in_values([None, "write to a.b@example.org"]), sign_in_values(["2026-11-22"])
    ('e-mail addresses', None)
    """
    looked_at = [value for value in values if value]
    if any(_EMAIL.search(value) for value in looked_at):
        return "e-mail addresses"
    if any(_is_phone_number(value.strip()) for value in looked_at):
        return "phone numbers"
    return None


def look_like_codes(values: Iterable[str | None]) -> bool:
    """Return whether there are values and all of them are short, without blanks, and no sign of a person."""
    looked_at = [value for value in values if value is not None]
    return (
        bool(looked_at)
        and all(_CODE.fullmatch(value) for value in looked_at)
        and sign_in_values(looked_at) is None
    )


def look_like_free_text(values: Iterable[str | None]) -> bool:
    """
    Return whether any value has several lines, or more words than one thing has. Lists and objects do not count.

    >>> look_like_free_text(["ok", "she asked us to call her sister back today"]), look_like_free_text(["12 High St"])
    (True, False)
    """
    looked_at = [value.strip() for value in values if value]
    return any(
        "\n" in value or len(value.split()) > _WORDS_OF_FREE_TEXT
        for value in looked_at
        if not value.startswith(("{", "["))
    )


def _is_phone_number(value: str) -> bool:
    if not _PHONE.fullmatch(value) or re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return False
    digits = sum(character.isdigit() for character in value)
    # A bare row of digits is as likely a number of some other kind; a plus or gaps make it a phone's.
    return digits in _MANY_DIGITS and (value.startswith("+") or not value.isdigit())
