"""What the contract of a source file has otherwise than the newest one in the ledger, field by field."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shared.contract_document import to_json
from shared.domain.contracts import TableContract


@dataclass(frozen=True, slots=True)
class Difference:
    """One field. A value that one of the two does not have is None."""

    field: str
    ledger: object
    file: object


def differences(*, ledger: TableContract, file: TableContract) -> list[Difference]:
    """
    Return the fields in which two contracts differ; a column that only one of them has is one field.

    Secrets are told by their references, since contracts hold nothing else of them.
    """
    return list(_differences(_document(ledger), _document(file), at=""))


def _document(contract: TableContract) -> dict[str, object]:
    document: dict[str, object] = json.loads(to_json(contract))
    listed = document["columns"]
    if isinstance(listed, list):
        document["columns"] = {
            column.name: _Fields(item | {"type": str(column.type)}, f"{column.type}, mask {column.mask}")
            for column, item in zip(contract.columns, listed, strict=True)
        }
    # An order of its own: columns leave in it.
    document["order of columns"] = [column.name for column in contract.columns]
    return document


class _Fields(dict[str, object]):
    """The fields of a column, and what it is called as a whole."""

    def __init__(self, fields: Mapping[str, object], called: str) -> None:
        super().__init__(fields)
        self.called = called


def _differences(ledger: object, file: object, *, at: str) -> Iterator[Difference]:
    if isinstance(ledger, Mapping) and isinstance(file, Mapping):
        for name in dict.fromkeys([*ledger, *file]):
            if name == "order of columns" and set(ledger[name]) != set(file[name]):
                continue
            yield from _differences(ledger.get(name), file.get(name), at=f"{at}.{name}" if at else name)
    elif ledger != file:
        yield Difference(at, _called(ledger), _called(file))


def _called(value: object) -> object:
    return value.called if isinstance(value, _Fields) else value
