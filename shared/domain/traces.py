"""
The trace of a batch: one id from its plan to its publication, as W3C Trace Context writes it.

The id is made of the batch and the moment its run began, both from the ledger: nothing is left to chance, and two
fleets that plan the same batch do not share one. Source: W3C Recommendation, "Trace Context", section 3.2.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

MAX_TRACEPARENT_CHARACTERS: Final = 255

#: Versions after 00 may add fields behind these four; ff is forbidden.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-[0-9a-f]{2}"
    r"(?P<more>-.*)?"
)


def trace_id_of(batch_id: str, *, begun_at: datetime) -> str:
    """Return the id of the run of a batch that began at a moment: 32 hexadecimal digits."""
    return _digest("trace", batch_id, begun_at.isoformat())[:32]


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Where something belongs: to which trace, and below which span of it."""

    trace_id: str
    span_id: str

    @classmethod
    def root_of(cls, trace_id: str) -> Self:
        """Return the root of a trace: what was planned, whether or not anybody recorded a span of it."""
        return cls(trace_id, _digest("root", trace_id)[:16])

    @classmethod
    def below(cls, trace_id: str, hint: Self | None) -> Self:
        """Return where the next step of a trace belongs: where a message says, if it speaks of this trace at all."""
        return hint if hint is not None and hint.trace_id == trace_id else cls.root_of(trace_id)

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """
        Read a `traceparent` that anybody may have written; None if it is none.

        Nothing hangs on it: whoever sent something else, or nothing, as older versions do, is not traced.

        >>> TraceParent.parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").span_id
        '00f067aa0ba902b7'
        >>> TraceParent.parse("0") is None
        True
        """
        if not isinstance(text, str) or len(text) > MAX_TRACEPARENT_CHARACTERS:
            return None
        found = _TRACEPARENT.fullmatch(text)
        if found is None or (found["version"] == "00" and found["more"]):
            return None
        return cls(found["trace"], found["span"])

    def __str__(self) -> str:
        """Write it. Always as sampled: whoever samples goes by the trace id, so that all parts agree."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(("esclusa", *texts)).encode()).hexdigest()
