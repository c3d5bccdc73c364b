"""One extract attempt in a process of its own: the real story over the real reader."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from support.extraction import HMAC, KEEP, MASK_KEY, column, make_assignment, make_contract

from bench.measuring import Taken, in_a_process, measured
from bench.stores import DiskStore
from bench.tables import COLUMNS
from services.extractor.extract import extract
from services.extractor.readers import open_reader
from shared.domain.contracts import SourceKind
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from shared.ports import ObjectStore
from shared.secrets.memory import MemorySecrets

#: Holds the address of the source, which may have a password in it.
ADDRESS = "BENCH_ADDRESS"

TO_S3 = "s3"


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is extracted: a relation with the columns of one of our tables."""

    table: str
    relation: tuple[str, ...]
    #: A directory, which is emptied afterwards, or `s3`.
    store: str
    masked: tuple[str, ...] = ()
    kind: str = SourceKind.POSTGRES
    connection: Mapping[str, str] = field(default_factory=lambda: {"dsn": f"env:{ADDRESS}"})

    def measure(self, address: str, *, environment: Mapping[str, str] | None = None) -> Taken:
        """Do it in a process of its own."""
        try:
            return in_a_process(
                "bench.extracting",
                json.dumps(asdict(self)),
                environment={**(environment or {}), ADDRESS: address},
            )
        finally:
            if self.store != TO_S3:
                shutil.rmtree(self.store, ignore_errors=True)


def main(text: str) -> None:
    """Extract, and print what it took."""
    extraction = Extraction(**json.loads(text))
    columns = [
        column(name, type_text, HMAC if name in extraction.masked else KEEP)
        for name, type_text in COLUMNS[extraction.table].items()
    ]
    contract = make_contract(
        columns,
        relation=tuple(extraction.relation),
        kind=SourceKind(extraction.kind),
        connection=extraction.connection,
    )
    if extraction.store == TO_S3:
        store: ObjectStore = S3ObjectStore(make_s3_client(os.environ["AWS_DEFAULT_REGION"]))
    else:
        store = cast("ObjectStore", DiskStore(Path(extraction.store)))
    secrets = MemorySecrets({f"env:{ADDRESS}": os.environ[ADDRESS], "env:MASK_KEY": MASK_KEY})
    # Keys are written once: each process is an attempt of its own.
    assignment = make_assignment(contract, attempt=os.getpid())
    with open_reader(contract, secrets=secrets) as reader:
        reader.clock()  # A worker that is warm is connected.
        with measured() as tell:
            result = extract(
                assignment,
                reader=reader,
                store=store,
                secrets=secrets,
                part_size_in_bytes=64 * 1024 * 1024,
            )
            tell(sum(file.record_count for file in result.files))


if __name__ == "__main__":
    main(sys.argv[1])
