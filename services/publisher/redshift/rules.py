"""
Our own rules of what Redshift's SQL must not do, held for every statement before it is sent.

Two parsers read the same statements in the tests and find what is no SQL. These rules find what is SQL and wrong: what a
parser accepts, and Redshift refuses, commits or does otherwise. Each number is a row of the table in docs/redshift.md.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from services.publisher.redshift.plan import Statement
from shared.domain.reasons import Reason
from shared.errors import Refused

# Source: Amazon Redshift Management Guide, "Using the Amazon Redshift Data API": 100 KB; read as the smaller of its meanings.
MAX_SQL_BYTES = 100_000
# Source: botocore, service model redshift-data, SqlList.
MAX_STATEMENTS = 40

_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"]|"")*")|(?P<text>'(?:[^']|'')*')|(?P<comment>--|/\*)|(?P<word>[A-Za-z_][A-Za-z_0-9$]*)"""
    r"""|(?P<parameter>(?<!:):[A-Za-z_]+)|(?P<number>\d+(?:\.\d+)?)|(?P<sign>[^\sA-Za-z_0-9])""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, name, text or sign of a statement. Words are in capitals."""

    kind: str
    text: str


@lru_cache(maxsize=64)
def tokens(sql: str) -> tuple[Token, ...]:
    """Return the tokens of a statement."""
    return tuple(
        Token(kind, match[kind].upper() if kind == "word" else match[kind])
        for match in _TOKEN.finditer(sql)
        if (kind := match.lastgroup)
    )


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a statement breaks."""

    rule: str
    statement: str
    found: str

    def __str__(self) -> str:
        return f"{self.statement!r}: {self.found} (rule {self.rule})"


def breaches(statements: Sequence[Statement]) -> list[Breach]:
    """Return the rules that a transaction breaks; one statement alone is a transaction of its own."""
    found = [
        Breach(rule, statement.name, what)
        for statement in statements
        for rule, what in _of_statement(statement)
    ]
    if len(statements) > 1:
        found += [
            Breach(rule, statement.name, what)
            for statement in statements
            for rule, what in _of_transaction(statement)
        ]
        found += _of_order(statements)
    if len(statements) > MAX_STATEMENTS:
        count = f"{len(statements)} statements in one batch, at most {MAX_STATEMENTS} are taken"
        found.append(Breach("34", statements[0].name, count))
    return found


def refuse_broken_rules(statements: Sequence[Statement]) -> None:
    """
    Let nothing pass that breaks a rule.

    Raises:
        Refused: TARGET_INCOMPATIBLE if a statement is too long: the table has too many columns, or too long names.
        ValueError: for any other rule, which is a defect of ours.
    """
    for statement in statements:
        size = len(statement.sql.encode())
        if size > MAX_SQL_BYTES:
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{statement.name!r}: a statement of {size} bytes, the Data API takes {MAX_SQL_BYTES}; publish fewer "
                "columns, or to `external` only",
            )
    if found := breaches([statement for statement in statements if not statement.is_a_persons]):
        raise ValueError("; ".join(map(str, found)))


# ---- one statement -----------------------------------------------------------------------------------------


def _of_statement(statement: Statement) -> Iterator[tuple[str, str]]:
    found = tokens(statement.sql)
    words = [token.text for token in found if token.kind == "word"]
    yield from _about_length_and_quotes(statement, found)
    yield from _about_parameters(statement, found)
    if not words:
        yield "-", "no statement"
        return
    for word, (rule, why) in _FORBIDDEN_WORDS.items():
        if word in words:
            yield rule, why
    for pair, (rule, why) in _FORBIDDEN_PAIRS.items():
        if pair in pairwise(words):
            yield rule, why
    match words[0]:
        case "COPY":
            yield from _about_copy(found, words)
        case "CREATE" if "VIEW" in words[:4]:
            yield from _about_view(words)
        case "CREATE" if "TABLE" in words[:3]:
            yield from _about_table(found, words)
        case "DELETE" | "UPDATE":
            yield from _about_joins(words)


_FORBIDDEN_WORDS = {
    "TRUNCATE": ("26", "TRUNCATE commits the transaction"),
    "TEXT": ("29", "TEXT is VARCHAR(256)"),
    "BPCHAR": ("29", "BPCHAR is CHAR(256)"),
    "EMPTYASNULL": ("30", "makes '' NULL"),
    "BLANKSASNULL": ("30", "makes '' NULL"),
    "FILLRECORD": ("30", "makes missing columns NULL or ''"),
    "ACCEPTINVCHARS": ("30", "changes values"),
    "TRUNCATECOLUMNS": ("30", "cuts values"),
    "MAXERROR": ("17", "leaves rows out"),
    "CREDENTIALS": ("17", "keys have no place in SQL; a role is named"),
    "ACCESS_KEY_ID": ("17", "keys have no place in SQL; a role is named"),
    "SECRET_ACCESS_KEY": ("17", "keys have no place in SQL; a role is named"),
    "MERGE": ("23", "joins texts with trailing blanks as equal, and counts nothing"),
    "BYTEDICT": ("27", "such a column cannot be widened"),
    "RUNLENGTH": ("27", "such a column cannot be widened"),
    "TEXT255": ("27", "such a column cannot be widened"),
    "TEXT32K": ("27", "such a column cannot be widened"),
    "UNLOAD": ("19", "writes rows where no ledger names them"),
    "BEGIN": ("2", "the Data API begins and ends transactions"),
    "COMMIT": ("2", "the Data API begins and ends transactions"),
    "ROLLBACK": ("2", "the Data API begins and ends transactions"),
}

_FORBIDDEN_PAIRS = {
    ("TABLE", "APPEND"): ("26", "ALTER TABLE APPEND commits by itself"),
    ("DISTINCT", "FROM"): ("25", "Redshift has no IS DISTINCT FROM"),
    ("ON", "CONFLICT"): ("25", "Redshift has no ON CONFLICT"),
    ("PRIMARY", "KEY"): ("27", "is believed and not enforced, and forbids to widen"),
}


def _about_length_and_quotes(statement: Statement, found: tuple[Token, ...]) -> Iterator[tuple[str, str]]:
    size = len(statement.sql.encode())
    if size > MAX_SQL_BYTES:
        yield "34", f"{size} bytes, at most {MAX_SQL_BYTES} are taken"
    for token in found:
        if token.kind == "quoted":
            name = token.text[1:-1].replace('""', '"')
            if not 1 <= len(name.encode()) <= 127:
                yield "33", f"a name of {len(name.encode())} bytes, at most 127 are kept"
        elif token.kind == "text" and "\\" in token.text:
            yield "39", "a backslash in a literal, which is an escape"
        elif token.kind == "comment":
            yield "39", "a comment"
        elif token.kind == "sign" and token.text in {"'", '"', ";", "\\", "\0"}:
            yield "39", f"{token.text!r} outside of quotes"
    if _is_mutable(statement) and any(
        token.kind == "quoted" and token.text != _folded(token.text) for token in found
    ):
        yield "33", "a name with capital letters, which are folded"


def _folded(text: str) -> str:
    return "".join(character.lower() if character.isascii() else character for character in text)


def _is_mutable(statement: Statement) -> bool:
    # Names of people and roles, which are granted something, are the catalogue's.
    return not statement.sql.startswith(("GRANT ", "ALTER DEFAULT PRIVILEGES "))


def _about_parameters(statement: Statement, found: tuple[Token, ...]) -> Iterator[tuple[str, str]]:
    named = {token.text[1:] for token in found if token.kind == "parameter"}
    if named != set(statement.parameters):
        yield "34", f"parameters {sorted(named)}, values for {sorted(statement.parameters)}"
    for name, value in statement.parameters.items():
        if not value:
            yield "34", f"parameter {name} is empty, which the Data API refuses"
    if statement.parameters and any(
        token.kind in {"quoted", "text"} and ":" in token.text for token in found
    ):
        yield "34", "a colon in quotes beside parameters"


def _about_copy(found: tuple[Token, ...], words: list[str]) -> Iterator[tuple[str, str]]:
    texts = [token.text for token in found if token.kind == "text"]
    signs_before_from = []
    for token in found:
        if token.text == "FROM":
            break
        signs_before_from.append(token.text)
    if "(" not in signs_before_from:
        yield "16", "COPY without a list of columns"
    if "MANIFEST" not in words or not texts or not texts[0].endswith(".manifest'"):
        yield "21", "COPY of a prefix, which takes what it should not"
    if "PARQUET" not in words:
        yield "30", "COPY of text, which knows no difference between '' and NULL"
    if "IAM_ROLE" not in words:
        yield "17", "COPY without a role"
    if "REGION" in words:
        yield "17", "COPY of Parquet takes no REGION"
    allowed = {"COPY", "FROM", "IAM_ROLE", "FORMAT", "AS", "PARQUET", "MANIFEST", "STATUPDATE", "ON", "OFF"}
    if others := sorted(set(words) - allowed):
        yield "17", f"COPY of Parquet takes no {', '.join(others)}"


def _about_view(words: list[str]) -> Iterator[tuple[str, str]]:
    if words[-4:] != ["WITH", "NO", "SCHEMA", "BINDING"]:
        yield "14", "a view that is bound to its table"


_SIZED = {"VARCHAR", "CHAR", "VARBYTE"}


def _about_table(found: tuple[Token, ...], words: list[str]) -> Iterator[tuple[str, str]]:
    is_temporary = "TEMPORARY" in words[:3]
    is_from_query = "AS" in words[:6] and "SELECT" in words
    is_like_another = "LIKE" in words
    if is_from_query or is_like_another:
        return
    if not is_temporary and "ENCODE" not in words:
        yield "17", "a table without encodings: COPY of Parquet chooses none"
    for token, after in zip(found, [*found[1:], Token("end", "")], strict=True):
        if token.kind != "word" or token.text not in _SIZED:
            continue
        if after.text != "(" and not (token.text == "VARBYTE" and is_temporary):
            yield "29", f"{token.text} without a size"
    for size in _sizes(found, "VARCHAR"):
        if not 1 <= size <= 65_535:
            yield "29", f"VARCHAR({size}), at most 65535 bytes are held"


def _sizes(found: tuple[Token, ...], word: str) -> Iterator[int]:
    for token, bracket, number in zip(found, found[1:], found[2:], strict=False):
        if (token.text, bracket.text) == (word, "(") and number.kind == "number":
            yield int(number.text)


def _about_joins(words: list[str]) -> Iterator[tuple[str, str]]:
    if "OR" in words:
        yield "25", "a join that is no plain equality"
    if "WITH" in words:
        yield "25", "a WITH that writes"


# ---- statements together -----------------------------------------------------------------------------------


def _of_transaction(statement: Statement) -> Iterator[tuple[str, str]]:
    words = [token.text for token in tokens(statement.sql) if token.kind == "word"]
    if "EXTERNAL" in words:
        yield "1", "external DDL in a transaction"
    if words[:2] == ["ALTER", "TABLE"] and "TYPE" in words:
        yield "27", "ALTER COLUMN TYPE in a transaction"
    if words and words[0] == "VACUUM":
        yield "26", "VACUUM in a transaction"
    if statement.parameters:
        yield "34", "parameters in a batch"


_WRITES = {"INSERT", "DELETE", "UPDATE", "COPY"}


def _of_order(statements: Sequence[Statement]) -> Iterator[Breach]:
    """Whoever changes rows locks first: the snapshot is taken by the first statement that reads or writes."""
    first_words = [
        next((token.text for token in tokens(s.sql) if token.kind == "word"), "") for s in statements
    ]
    if _WRITES & set(first_words) and first_words[0] != "LOCK":
        yield Breach("35", statements[0].name, "rows are changed before anything is locked")
    if "LOCK" in first_words[1:]:
        yield Breach(
            "35", statements[first_words.index("LOCK", 1)].name, "a lock after the snapshot was taken"
        )
