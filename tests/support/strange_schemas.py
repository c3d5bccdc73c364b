"""Schemas that nobody has seen before: names out of every character, and columns of every type in any company."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: What some layer may take for something else.
CHARACTERS = "aZ_09 .,;:'\"`%$?@#&|!~^*+-=/\\<>[](){}ñ漢ßİ"
WORDS = [
    "select",
    "Order",
    "NULL",
    "day",
    "batch",
    "row",
    "user",
    "a.b",
    "c0",
    "--",
    "/*",
    "{curly}",
    "%s",
    ":p",
    "$1",
]

MAX_COLUMNS = 14
ROW_COUNT = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of some type: how it is written as SQL, and whether it arrives."""

    literal: str
    #: As the warehouse says it; empty where only the source can tell.
    text: str | None = ""


@dataclass(frozen=True, slots=True)
class StrangeTable:
    """A table of some types, and its rows. The first column numbers them."""

    name: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Choice | None]]

    @property
    def arriving(self) -> list[int]:
        """The numbers of the rows that no value keeps from arriving."""
        return [
            number
            for number, row in enumerate(self.rows)
            if all(choice is None or choice.text is not None for choice in row)
        ]

    def statements(self, quote: Callable[[str], str]) -> list[str]:
        """Return what makes the table and fills it."""
        number, *others = self.columns
        defined = [f"{quote(name)} {self.columns[name]} NULL" for name in others]
        key = f"{quote(number)} {self.columns[number]} PRIMARY KEY"
        return [
            f"CREATE TABLE {quote(self.name)} ({', '.join([key, *defined])})",
            *(
                f"INSERT INTO {quote(self.name)} VALUES "
                f"({', '.join([str(position), *(choice.literal if choice else 'NULL' for choice in row)])})"
                for position, row in enumerate(self.rows)
            ),
        ]


def strange_tables(
    values: Mapping[str, Sequence[Choice]], *, seed: int, integer: str, name_bytes: int
) -> list[StrangeTable]:
    """Return tables that between them have every type, by a seed."""
    dice = random.Random(seed)
    types = list(values)
    dice.shuffle(types)
    shares = [types[start : start + MAX_COLUMNS] for start in range(0, len(types), MAX_COLUMNS)]
    names = _names(dice, name_bytes)
    return [
        StrangeTable(
            name=next(names),
            columns={next(names): integer} | {next(names): type_ for type_ in share},
            rows=[
                # One column in eight has no value, and most rows none that is rejected.
                [None if dice.random() < 1 / 8 else _choice(dice, values[type_]) for type_ in share]
                for _ in range(ROW_COUNT)
            ],
        )
        for share in shares
    ]


def _choice(dice: random.Random, choices: Sequence[Choice]) -> Choice:
    good = [choice for choice in choices if choice.text is not None]
    return dice.choice(choices if dice.random() < 1 / 16 else good)


def _names(dice: random.Random, name_bytes: int) -> Iterator[str]:
    """Yield names of which no two are alike but for their case."""
    taken: set[str] = set()
    while True:
        length = dice.choice([1, 2, 3, 8, 20, 60])
        name = dice.choice([dice.choice(WORDS), "".join(dice.choices(CHARACTERS, k=length))])
        while len(name.encode()) > name_bytes:
            name = name[:-1]
        # Blanks at an end are refused by MariaDB.
        name = name.strip()
        if name and name.casefold() not in taken and not name.startswith("_esclusa"):
            taken.add(name.casefold())
            yield name
