"""
How memory is handed out to the processes that extract. Its owners read this from the environment when a process begins.

A chunk passes through several buffers of some MiB, and each is let go after milliseconds. By itself glibc gives such
memory back to the kernel, which has to clear and map the same pages again for the next chunk: 170,000 page faults and
a tenth of the CPU for 1,000,000 masked rows. Kept at hand it is 50,000, and one arena for all threads in place of one
for each saves what lies unused in the others, 30 MiB. Other C libraries know none of these names. Polars brings an
allocator of its own, jemalloc, and has it give back after half a second: 90,000 page faults for 2,000,000 masked rows. With
ten seconds it is 40,000, and what one large record needed is not kept for ever.
Source: mallopt(3), jemalloc(3).
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

MIB = 1024 * 1024

# Of glibc, sizes: more than any buffer of a chunk, and more than all of them that are ever free at once, where records are small.
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
        "MALLOC_TRIM_THRESHOLD_": str(64 * MIB),
        "_RJEM_MALLOC_CONF": "background_thread:true,dirty_decay_ms:10000,muzzy_decay_ms:0",
    }
)


def prepare_children() -> None:
    """Let the processes that are spawned from here on have it, unless whoever runs us has decided otherwise."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
