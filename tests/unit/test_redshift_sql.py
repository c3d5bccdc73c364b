"""
What is sent to Redshift is what stands in the files beside this one, keeps our rules, and is SQL to two parsers.

sqlfluff is the stricter one; sqlglot takes much for a command of which it knows nothing.
"""

import re

import pytest
import sqlglot
from sqlfluff.core import Linter
from support.redshift_sql import FOLDER, as_file, everything

from services.publisher.redshift.rules import breaches

EVERYTHING = everything()
ALONE = {"house", "base", "questions", "lake"}
STATEMENTS = sorted({statement.sql for sent in EVERYTHING.values() for statement in sent})

#: What a parser does not know, though Redshift's guide has it. Each has to be needed.
UNKNOWN_TO_SQLFLUFF = {
    # GRANT … TO GROUP "a", GROUP "b" and roles in default privileges.
    r"^ALTER DEFAULT PRIVILEGES .* TO ROLE ": "roles in ALTER DEFAULT PRIVILEGES",
}
UNKNOWN_TO_SQLGLOT = {
    r"^LOCK TABLE ": "LOCK",
    r"^CREATE EXTERNAL SCHEMA ": "external schemas",
    r"^ALTER DEFAULT PRIVILEGES ": "default privileges",
    r"^GRANT SELECT ON ALL TABLES ": "all tables of a schema",
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_sent_is_what_was_reviewed(name):
    assert as_file(EVERYTHING[name]) == (FOLDER / f"{name}.sql").read_text(), (
        "if this is meant: PYTHONPATH=.:tests python -m support.redshift_sql"
    )


def test_no_file_is_left_of_what_is_not_sent_any_more():
    assert {path.stem for path in FOLDER.glob("*.sql")} == set(EVERYTHING)


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_sent_keeps_our_rules(name):
    sent = EVERYTHING[name]
    if name in ALONE:
        together = [[statement] for statement in sent]
    elif name == "rebuild":
        together = [*([statement] for statement in sent[:6]), sent[6:]]
    else:
        together = [sent]

    assert [str(breach) for group in together for breach in breaches(group)] == []


def with_values(sql: str) -> str:
    """Parameters are the Data API's; parsers get a value in their place."""
    return re.sub(r"(?<![:\w]):[a-z]+", "'x'", sql)


def test_what_is_sent_is_sql_to_sqlfluff():
    linter = Linter(dialect="redshift")
    refused = {}
    for sql in STATEMENTS:
        parsed = linter.parse_string(with_values(sql))
        if parsed.violations:
            refused[sql] = parsed.violations[0].desc()

    assert_known(refused, UNKNOWN_TO_SQLFLUFF)


@pytest.mark.filterwarnings("ignore")
def test_what_is_sent_is_sql_to_sqlglot():
    refused = {}
    for sql in STATEMENTS:
        try:
            parsed = sqlglot.parse_one(with_values(sql), dialect="redshift")
        except sqlglot.errors.ParseError as error:
            refused[sql] = str(error)
            continue
        if isinstance(parsed, sqlglot.exp.Command):
            refused[sql] = "a command"

    assert_known(refused, UNKNOWN_TO_SQLGLOT)


def assert_known(refused: dict[str, str], known: dict[str, str]) -> None:
    unexpected = {sql: why for sql, why in refused.items() if not any(re.search(k, sql) for k in known)}
    assert unexpected == {}
    assert [k for k in known if not any(re.search(k, sql) for sql in refused)] == [], "not needed any more"
