"""
The text of a `query:`, cut at its placeholders, and refused unless it is one SELECT beyond doubt.

Products read SQL differently: what is a comment to one is a statement to another, and a backslash ends a text or does
not. So whatever could be read in two ways is refused by name. The query is put between parentheses and read in a
transaction that cannot write; nothing here is what keeps the source from being changed.
"""

import re

from shared.domain.source_queries import Placeholder, SourceQuery

MAX_QUERY_CHARACTERS = 64 * 1024

_WORD = re.compile(r"[^\W\d][\w$]*")
_PLACEHOLDER = re.compile(r":(?P<name>[A-Za-z_]\w*)")

#: A type, as any product names those of moments, dates and numbers: it stands in SQL beside each value.
_TYPE = re.compile(r"[a-z]\w*(?: \w+)*(?:\(\d+(?:, ?\d+)?\))?(?: \w+)*", re.ASCII | re.IGNORECASE)

#: A SELECT may hold these where it writes, or locks what it reads.
_WRITING_WORDS = frozenset({"insert", "update", "delete", "merge", "into"})
_LOCKING_WORDS = frozenset({("for", "share"), ("in", "share")})

#: Letters before a quote that give it another end.
_OTHER_QUOTINGS = frozenset({"e", "q", "nq"})

_PLACEHOLDERS_TOLD = " or ".join(f":{placeholder}" for placeholder in Placeholder)

#: What begins something that products read differently, and what to write instead.
_REFUSED: dict[str, str] = {
    ";": "one statement, without a semicolon",
    "--": "no comments in it: put them above it, behind a #",
    "/*": "no comments in it: put them above it, behind a #",
    "?": "no question mark: drivers take it for a placeholder; write chr(63), and functions instead of such operators",
    "{": "no braces: drivers read them as their own",
    "$": "names and values that do not begin with a dollar sign",
}
_REFUSED_BY_PRODUCT: dict[str, dict[str, str]] = {
    "mysql": {"#": "no comments in it: put them above it, behind a #", "@": "no variables"},
    "sqlite": {"@": "no variables"},
    "sqlserver": {"@": "no variables"},
}


def parse_query(text: str, *, product: str, bound_type: str = "") -> SourceQuery:
    """
    Return a query cut at its placeholders. `product`: whose SQL it is; `bound_type`: of the cursor's column.

    >>> parse_query("SELECT a FROM b WHERE c < :window_end", product="postgresql").pieces
    ('SELECT a FROM b WHERE c < ', '')

    Raises:
        ValueError: with what was expected and what was found, if it is not one SELECT or may be read in two ways.
    """
    query = text.strip()
    if len(query) > MAX_QUERY_CHARACTERS:
        raise _unexpected(f"at most {MAX_QUERY_CHARACTERS} characters", "more")
    if any(ord(character) < 32 and character not in "\t\n\r" for character in query):
        raise _unexpected("a text without control characters", "one with them")
    words = _Words(product)
    pieces, placeholders = [""], []
    position = 0
    while position < len(query):
        if found := _PLACEHOLDER.match(query, position):
            placeholders.append(_placeholder(found["name"]))
            pieces.append("")
            position = found.end()
            continue
        end = _end_of_token(query, position, product, words)
        pieces[-1] += query[position:end]
        position = end
    words.require_end()
    if placeholders and bound_type and not _TYPE.fullmatch(bound_type):
        raise _unexpected(
            "the source's word for a type as source_type of the cursor's column, as which placeholders are bound",
            repr(bound_type),
        )
    return SourceQuery(tuple(pieces), tuple(placeholders), bound_type if placeholders else "")


def _placeholder(name: str) -> Placeholder:
    if name not in set(Placeholder):
        raise _unexpected(f"{_PLACEHOLDERS_TOLD} behind a colon", f":{name}")
    return Placeholder(name)


def _end_of_token(query: str, position: int, product: str, words: "_Words") -> int:
    """Return where a token ends that is no placeholder."""
    character = query[position]
    if word := _WORD.match(query, position):
        words.add(word.group(), is_before_quote=query[word.end() : word.end() + 1] == "'")
        return word.end()
    for refused, expected in (_REFUSED | _REFUSED_BY_PRODUCT.get(product, {})).items():
        if query.startswith(refused, position):
            raise _unexpected(expected, f"{refused!r} on line {_line(query, position)}")
    if character in "'\"`" or (character == "[" and product in {"sqlserver", "sqlite"}):
        return _end_of_quoted(query, position, product)
    if query.startswith("::", position):
        return position + 2
    if character in "()":
        words.add_parenthesis(character)
    return position + 1


def _end_of_quoted(query: str, position: int, product: str) -> int:
    opening = query[position]
    closing = "]" if opening == "[" else opening
    end = position
    while True:
        end = query.find(closing, end + 1)
        if end < 0:
            raise _unexpected("every quote closed", f"{opening!r} open from line {_line(query, position)} on")
        # Doubled, it stands for itself; in SQLite's brackets it does not.
        if query.startswith(closing * 2, end) and not (opening == "[" and product == "sqlite"):
            end += 1
            continue
        inside = query[position + 1 : end]
        if "?" in inside:
            raise _unexpected(_REFUSED["?"], f"one on line {_line(query, position)}")
        if product == "mysql" and "\\" in inside and opening in "'\"":
            raise _unexpected("no backslash between quotes", f"one on line {_line(query, position)}")
        return end + 1


class _Words:
    """What the words of a query and its parentheses come to."""

    def __init__(self, product: str) -> None:
        self._product = product
        self._before = ""
        self._depth = 0

    def add(self, word: str, *, is_before_quote: bool) -> None:
        folded = word.casefold()
        if not self._before:
            # SQL Server has no WITH between parentheses.
            firsts = {"SELECT"} if self._product == "sqlserver" else {"SELECT", "WITH"}
            if folded.upper() not in firsts or self._depth:
                raise _unexpected(f"one {' or '.join(sorted(firsts))}", f"{word.upper()} first")
        if folded in _WRITING_WORDS or (self._before, folded) in _LOCKING_WORDS:
            raise _unexpected("a SELECT that only reads (names like this in quotes)", word.upper())
        if is_before_quote and folded in _OTHER_QUOTINGS:
            raise _unexpected("plain quotes", f"{word}'…'")
        self._before = folded

    def add_parenthesis(self, character: str) -> None:
        self._depth += 1 if character == "(" else -1
        if self._depth < 0 or not self._before:
            raise _unexpected("one SELECT, and every parenthesis opened before it is closed", repr(character))

    def require_end(self) -> None:
        if not self._before:
            raise _unexpected("one SELECT", "none")
        if self._depth:
            raise _unexpected("every parenthesis closed", f"{self._depth} open at the end")


def _line(query: str, position: int) -> int:
    return query.count("\n", 0, position) + 1


def _unexpected(expected: str, found: str) -> ValueError:
    return ValueError(f"expected {expected}, found {found}")
