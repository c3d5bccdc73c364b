"""
What is sent to Redshift: statements with names, and guards that end a transaction from within.

A batch of the Data API is one transaction without any control flow. So what has to hold in it is asked by a statement that
fails if it does not: it casts a text that says what was found to an integer. Which statement failed tells which guard
it was; the text adds counts, and never a value of a row.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Guard(StrEnum):
    """What has to hold in a transaction, or nothing of it stays."""

    #: The table is as it was when the plan was made.
    TURN = "turn"
    #: The staged rows are those of the files: as many, with as many NULLs and the same sums.
    PROOF = "proof"
    #: No key stands in the table twice.
    DOUBLES = "doubles"
    #: Every key of the batch is in the table now.
    MISSING = "missing"
    #: The table has the rows of the snapshot.
    SNAPSHOT = "snapshot"
    #: Not more rows would be deleted than the contract allows.
    BURST = "burst"


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and the name by which it is told and found again in the warehouse's own records."""

    name: str
    sql: str
    #: Values bound by `:name`. Neither empty nor NULL: the Data API takes the one not, and the other for a text.
    parameters: Mapping[str, str] = field(default_factory=dict)
    guard: Guard | None = None
    #: Whether an error may quote what it found in rows. Its text is then told only as far as it is known.
    touches_rows: bool = True
    #: A person's own words, of which our rules ask nothing but their length.
    is_a_persons: bool = False


#: Between the words of a guard, the number of a column from 1 and counts.
_FOUND = re.compile(r"esclusa (?P<what>[a-z]+)(?P<numbers>(?: -?[0-9]+)*)")


@dataclass(frozen=True, slots=True)
class Found:
    """What a guard said when it failed."""

    what: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wrong:
    """What must not be true of the rows that a guard looks at, and expressions for the counts that it then tells."""

    condition: str
    counts: tuple[str, ...]


def guard_sql(wrongs: Mapping[str, Wrong], source: str) -> str:
    """
    Return a statement that fails with the text of the first condition that is true of a source.

    `wrongs`: by the word, and number, that tells them. The text depends on rows, so that no planner works the cast out
    beforehand.
    """
    arms = []
    for what, wrong in wrongs.items():
        counts = " || ' ' || ".join(f"CAST({count} AS VARCHAR(20))" for count in wrong.counts)
        arms.append(f"WHEN {wrong.condition} THEN 'esclusa {what} ' || {counts}")
    return f"""SELECT CAST(CASE {" ".join(arms)} ELSE '0' END AS INTEGER) AS "held" FROM {source}"""


def found_by_guard(error: str) -> Found | None:
    """
    Read what a guard said out of an error; None if it is another's.

    >>> found_by_guard("ERROR: Invalid digit, Value 'e', Pos 0, Type: Integer, context: esclusa nulls 2 7")
    Found(what='nulls', numbers=(2, 7))
    """
    match = _FOUND.search(error)
    if match is None:
        return None
    return Found(match["what"], tuple(int(number) for number in match["numbers"].split()))
