"""
How memory is handed out to the processes that extract. Its owners read this from the environment when a process begins.

A chunk passes through several buffers of some MiB, and each is let go after milliseconds. By itself glibc gives such
memory back to the kernel, which has to clear and map the same pages again for the next chunk: 170,000 page faults and
a tenth of the CPU for 1,000,000 masked rows. Kept at hand it is 50,000, and one arena for all threads in place of one
for each saves what lies unused in the others, 30 MiB. Other C libraries know none of these names. Polars brings an
allocator of its own, jemalloc, and tells it to give back within half a second and by a thread: 80,000 page faults for
2,000,000 masked rows, in place of 30,000. What a process keeps ends with it, and no process lives for ever
(`shared/celery_sqs/app.py`).
Source: mallopt(3), jemalloc(3).
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

MIB = 1024 * 1024

#: More than any buffer of a chunk, and more than all of them that are ever free at once.
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
        "MALLOC_TRIM_THRESHOLD_": str(64 * MIB),
        "_RJEM_MALLOC_CONF": "background_thread:false,dirty_decay_ms:-1,muzzy_decay_ms:-1",
    }
)


def prepare_children() -> None:
    """Let the processes that are spawned from here on have it, unless whoever runs us has decided otherwise."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
