"""A notice as the JSON that receivers read. `docs/operations.md` tells its keys."""

import json
from collections.abc import Sequence
from typing import Final

from shared.domain.alarms import Alarm
from shared.ports import Notice

VERSION: Final = 1

#: More are counted, not listed. With the two limits below a notice stays far below the 256 KiB that SNS takes.
MAX_LISTED_ALARMS: Final = 50
MAX_DETAIL_CHARACTERS: Final = 500
MAX_LINES_OF_TEXT: Final = 10


def headline(notice: Notice) -> str:
    """
    Return a notice in one line.

    ASCII only and at most 100 characters, as the subject of an e-mail that SNS sends has to be.
    Source: Amazon SNS API Reference, "Publish", Subject.
    """
    counts = [
        f"{len(alarms)} alarm{'s' if len(alarms) > 1 else ''} {event}"
        for event, alarms in (("raised", notice.raised), ("resolved", notice.resolved))
        if alarms
    ]
    return f"{notice.fleet}: {', '.join(counts)}"[:100]


def notice_document(notice: Notice) -> str:
    """Return a notice as JSON, ASCII only. It holds names, states, reasons and moments; no rows, no secrets."""
    alarms = [
        *(("raised", item) for item in notice.raised),
        *(("resolved", item) for item in notice.resolved),
    ]
    document = {
        "version": VERSION,
        "id": notice.id,
        "fleet": notice.fleet,
        "told_at": notice.told_at.isoformat(),
        "text": _text(notice, alarms),
        "raised_count": len(notice.raised),
        "resolved_count": len(notice.resolved),
        "is_cut": len(alarms) > MAX_LISTED_ALARMS,
        "alarms": [_alarm(event, alarm) for event, alarm in alarms[:MAX_LISTED_ALARMS]],
    }
    return json.dumps(document, ensure_ascii=True, allow_nan=False)


def _alarm(event: str, alarm: Alarm) -> dict[str, str | None]:
    return {
        "event": event,
        "kind": alarm.kind,
        "subject": alarm.subject,
        "detail": alarm.detail[:MAX_DETAIL_CHARACTERS],
        "raised_at": alarm.raised_at.isoformat(),
        "resolved_at": None if alarm.resolved_at is None else alarm.resolved_at.isoformat(),
    }


def _text(notice: Notice, alarms: Sequence[tuple[str, Alarm]]) -> str:
    """Return a notice for people: the whole of it if it is short, else its beginning."""
    lines = [
        f"{event}: {alarm.kind} {alarm.subject}: {alarm.detail[:MAX_DETAIL_CHARACTERS]}"
        for event, alarm in alarms[:MAX_LINES_OF_TEXT]
    ]
    more = len(alarms) - len(lines)
    rest = [f"and {more} more; `esclusa alarms` lists all"] if more else []
    return "\n".join([headline(notice), *lines, *rest])
