"""One extract attempt in a process of its own: the real story over the real reader. What `bench` runs and measures."""

import os
import sys
from pathlib import Path
from typing import cast

from bench.measuring import measured
from bench.stores import DiskStore
from bench.tables import COLUMNS
from support.extraction import HMAC, KEEP, MASK_KEY, column, make_assignment, make_contract

from services.extractor.extract import extract
from services.extractor.readers import open_reader
from shared.domain.contracts import SourceKind, TableContract
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from shared.ports import ObjectStore
from shared.secrets.memory import MemorySecrets

#: Where the source is; beside it, which kind of source it is, and what else its connection needs.
CONNECTION = "BENCH_CONNECTION"


def contract_of(
    table: str,
    *,
    relation: tuple[str, ...],
    masked: frozenset[str] = frozenset(),
    kind: SourceKind = SourceKind.POSTGRES,
    connection: dict[str, str] | None = None,
) -> TableContract:
    """Return the contract of a table of ours."""
    columns = [
        column(name, type_text, HMAC if name in masked else KEEP)
        for name, type_text in COLUMNS[table].items()
    ]
    return make_contract(
        columns, relation=relation, kind=kind, connection=connection or {"dsn": f"env:{CONNECTION}"}
    )


def main(table: str, relation: str, masked: str, store: str) -> None:
    """Extract `relation`, which has the columns of `table`, to a directory or to `s3`, under `masked,columns`."""
    contract = contract_of(
        table, relation=("public", relation), masked=frozenset(filter(None, masked.split(",")))
    )
    assignment = make_assignment(contract)
    if store == "s3":
        # Keys are written once: each try writes under a prefix of its own, as each attempt does.
        assignment = make_assignment(contract, attempt=os.getpid())
        target: ObjectStore = S3ObjectStore(make_s3_client(os.environ["AWS_DEFAULT_REGION"]))
    else:
        target = cast("ObjectStore", DiskStore(Path(store)))
    secrets = MemorySecrets(
        {f"env:{CONNECTION}": os.environ[CONNECTION], "env:MASK_KEY": MASK_KEY}
    )
    with open_reader(contract, secrets=secrets) as reader:
        reader.clock()  # A worker that is warm is connected.
        with measured() as tell:
            result = extract(
                assignment, reader=reader, store=target, secrets=secrets, part_size_in_bytes=64 * 1024 * 1024
            )
            tell(sum(file.record_count for file in result.files))


if __name__ == "__main__":
    main(*sys.argv[1:])
