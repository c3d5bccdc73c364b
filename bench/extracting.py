"""One extract attempt in a process of its own: the real story over the real reader."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from support.extraction import HMAC, KEEP, MASK_KEY, column, make_assignment, make_contract

from bench.measuring import Taken, in_a_process, measured
from bench.tables import COLUMNS
from services.extractor import allocation
from services.extractor.extract import extract
from services.extractor.masking import prepare_masking
from services.extractor.readers import Chunk, open_reader
from shared.csv_dialect import record_line
from shared.domain.contracts import SourceKind
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from shared.secrets.memory import MemorySecrets

#: Holds the address of the source, which may have a password in it.
ADDRESS = "BENCH_ADDRESS"


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is extracted: a relation with the columns of one of our tables."""

    table: str
    relation: tuple[str, ...]
    masked: tuple[str, ...] = ()
    kind: str = SourceKind.POSTGRES
    connection: Mapping[str, str] = field(default_factory=lambda: {"dsn": f"env:{ADDRESS}"})

    def measure(self, address: str, *, s3: Mapping[str, str]) -> Taken:
        """Do it in a process of its own, as a worker begins one. `s3` is the environment of the clients of an S3."""
        return in_a_process(
            "bench.extracting",
            json.dumps(asdict(self)),
            environment={**allocation.ENVIRONMENT, **s3, ADDRESS: address},
        )


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
    store = S3ObjectStore(make_s3_client(os.environ["AWS_DEFAULT_REGION"]))
    secrets = MemorySecrets({f"env:{ADDRESS}": os.environ[ADDRESS], "env:MASK_KEY": MASK_KEY})
    # Keys are written once: each process is an attempt of its own.
    assignment = make_assignment(contract, attempt=os.getpid())
    with open_reader(contract, secrets=secrets) as reader:
        # A worker that is warm is connected, and Polars has its threads and plugins.
        reader.clock()
        prepare_masking(contract, secrets=secrets).mask(Chunk.of([record_line("1" for _ in columns)]))
        with measured() as tell:
            result = extract(assignment, reader=reader, store=store, secrets=secrets)
            tell(sum(file.record_count for file in result.files))


if __name__ == "__main__":
    main(sys.argv[1])
