"""
Walks the pages of a REST source, and notices when they cannot be all of it.

Pages by number or offset shift when a record leaves the window while they are read: what followed it moves one
place forward. Read from first to last, a record that moves on to a page that was read already would be lost; so
pages are read from last to first, and such a record comes twice and is merged by its key. That needs a total in
the answers. Without one, pages are read until one is empty, and a shift cannot be seen.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from services.extractor.readers.http import Answer, JsonClient
from services.extractor.readers.json_text import TooDeep, render_json, value_at
from shared.domain.reasons import Reason
from shared.errors import Refused

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PagingOptions:
    """How a source gives its pages; the keys of a table's `options`, see `docs/sources.md`."""

    paging: str
    records_path: tuple[str, ...]
    total_path: tuple[str, ...]
    page_parameter: str
    first_page: int
    size_parameter: str
    page_size: int | None
    offset_parameter: str
    cursor_parameter: str
    cursor_path: tuple[str, ...]
    #: A path in the answer, or `header`.
    next_link: str

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """Read them from a contract's options."""
        page_size = options.get("page_size")
        return cls(
            paging=options.get("paging", "none"),
            records_path=_path(options.get("records_path", "data")),
            total_path=_path(options.get("total_path", "")),
            page_parameter=options.get("page_parameter", "page"),
            first_page=int(options.get("first_page", "1")),
            size_parameter=options.get("size_parameter", ""),
            page_size=int(page_size) if page_size else None,
            offset_parameter=options.get("offset_parameter", "offset"),
            cursor_parameter=options.get("cursor_parameter", "cursor"),
            cursor_path=_path(options.get("cursor_path", "")),
            next_link=options.get("next_link", "header"),
        )

    def size_parameters(self) -> dict[str, str]:
        """Return what asks for pages of the size."""
        return {self.size_parameter: str(self.page_size)} if self.size_parameter and self.page_size else {}


@dataclass(frozen=True, slots=True)
class Page:
    """The records of one answer."""

    records: list[Record]
    total: int | None
    answer: Answer


def walk_pages(
    client: JsonClient,
    url: str,
    *,
    parameters: Mapping[str, str],
    options: PagingOptions,
    max_pages: int,
    place: str,
) -> Iterator[list[Record]]:
    """
    Ask for one page after the other until the source says, and shows, that there are no more.

    Raises:
        Refused: if a page comes twice, is none, disagrees with the total, or there are too many.
        Unavailable: if the source does not answer.
    """
    walk = _Walk(client, url, parameters={**parameters, **options.size_parameters()}, options=options,
                 max_pages=max_pages, place=place)  # fmt: skip
    match options.paging:
        case "page" | "offset":
            return walk.by_position()
        case "cursor":
            return walk.by_link(walk.following_cursor)
        case "next_link":
            return walk.by_link(walk.following_link)
        case _:
            return walk.by_link(lambda _: None)


class _Walk:
    def __init__(
        self,
        client: JsonClient,
        url: str,
        *,
        parameters: Mapping[str, str],
        options: PagingOptions,
        max_pages: int,
        place: str,
    ) -> None:
        self._client = client
        self._url = url
        self._parameters = parameters
        self._options = options
        self._max_pages = max_pages
        self._place = place
        self._page_count = 0

    def by_position(self) -> Iterator[list[Record]]:
        """Walk by page numbers or offsets."""
        first = self._ask_position(0, size=0)
        if first.total is None:
            yield from self._forward(first)
        else:
            yield from self._backward(first, total=first.total)

    def _forward(self, page: Page) -> Iterator[list[Record]]:
        """Walk until a page is empty: a short one may be short because the source allows no longer ones."""
        page_number, record_count, before = 0, 0, ""
        while page.records:
            before = self._require_new(page, before)
            yield page.records
            page_number += 1
            record_count += len(page.records)
            page = self._ask(self._url, self._position_parameters(page_number, offset=record_count))

    def _backward(self, first: Page, *, total: int) -> Iterator[list[Record]]:
        """Walk from the last page to the first. The first answer only tells how many there are."""
        size = len(first.records)
        self._require_full(first, position=0, size=size)
        if total <= size:
            yield first.records
            return
        position = (total - 1) // size
        before = ""
        while position >= 0:
            page = self._ask_position(position, size=size)
            found = self._require_full(page, position=position, size=size)
            if found > total:
                # Records came in: what lay before us may have moved up, to where we have been.
                position += -(-(found - total) // size)
                total, before = found, ""
                continue
            before = self._require_new(page, before if found == total else "")
            total = found
            yield page.records
            position -= 1

    def by_link(
        self, following: Callable[[Page], tuple[str, Mapping[str, str]] | None]
    ) -> Iterator[list[Record]]:
        """Walk by what each answer says of the next one."""
        step: tuple[str, Mapping[str, str]] | None = (self._url, self._parameters)
        seen = {_step_digest(self._url, self._parameters)}
        totals: list[int] = []
        record_count, before = 0, ""
        while step is not None:
            page = self._ask(*step)
            before = self._require_new(page, before)
            yield page.records
            record_count += len(page.records)
            totals += [] if page.total is None else [page.total]
            if (step := following(page)) is not None:
                digest = _step_digest(*step)
                if digest in seen:
                    raise self._invalid("the way through its pages leads in a circle")
                seen.add(digest)
        # Records that leave the window before their page is read are in the first total only.
        if totals and not min(totals) <= record_count <= max(totals):
            raise self._invalid(f"the answers announce {totals[-1]} records, but hold {record_count}")

    def following_cursor(self, page: Page) -> tuple[str, Mapping[str, str]] | None:
        """Return the next step by the cursor in the answer."""
        cursor = value_at(page.answer.document, self._options.cursor_path)
        if cursor in (None, "", False):
            return None
        if not isinstance(cursor, str):
            raise self._invalid(
                "the cursor in the answer should be a string or a number, found something else"
            )
        return self._url, {**self._parameters, self._options.cursor_parameter: str(cursor)}

    def following_link(self, page: Page) -> tuple[str, Mapping[str, str]] | None:
        """Return the next step by the link in the answer or its header."""
        if self._options.next_link == "header":
            link = page.answer.next_link
        else:
            link = value_at(page.answer.document, _path(self._options.next_link))
        if link in (None, "", False):
            return None
        if not isinstance(link, str):
            raise self._invalid("the next link in the answer should be a string, found something else")
        # The link says everything: parameters added again would come twice.
        return self._client.resolve(link, seen_at=page.answer.url), {}

    def _ask_position(self, position: int, *, size: int) -> Page:
        return self._ask(self._url, self._position_parameters(position, offset=position * size))

    def _position_parameters(self, position: int, *, offset: int) -> dict[str, str]:
        if self._options.paging == "offset":
            step = {self._options.offset_parameter: str(offset)}
        else:
            step = {self._options.page_parameter: str(self._options.first_page + position)}
        return {**self._parameters, **step}

    def _require_full(self, page: Page, *, position: int, size: int) -> int:
        """Return the total that a page announces, if the page holds as many records as that leaves for it."""
        if page.total is None:
            raise self._invalid("some answers say how many records there are, and some do not")
        expected = min(size, max(0, page.total - position * size))
        if len(page.records) != expected or (size == 0 and page.total > 0):
            raise self._invalid(
                f"the answers announce {page.total} records, but page {position + 1} holds "
                f"{len(page.records)} where {expected} were expected"
            )
        return page.total

    def _ask(self, url: str, parameters: Mapping[str, str]) -> Page:
        self._page_count += 1
        if self._page_count > self._max_pages:
            raise Refused(
                Reason.SOURCE_LIMIT_EXCEEDED,
                f"{self._place}: expected at most {self._max_pages} pages, found more; ask for larger pages or "
                "raise max_pages",
            )
        answer = self._client.get(url, parameters)
        records = value_at(answer.document, self._options.records_path)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise self._invalid(
                f"expected a list of objects at {'.'.join(self._options.records_path)!r} of the answer, "
                "found something else"
            )
        return Page(records, self._total_of(answer), answer)

    def _total_of(self, answer: Answer) -> int | None:
        if not self._options.total_path:
            return None
        text = value_at(answer.document, self._options.total_path)
        if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 16):
            raise self._invalid(
                f"expected the number of records at {'.'.join(self._options.total_path)!r} of the answer, "
                "found something else"
            )
        return int(text)

    def _require_new(self, page: Page, before: str) -> str:
        """Return the digest of a page, if it is not that of the page before."""
        if not page.records:
            return ""
        try:
            text = "\n".join(map(render_json, page.records))
        except TooDeep as error:
            raise Refused(Reason.SOURCE_LIMIT_EXCEEDED, f"{self._place}: {error}") from None
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
        if digest == before:
            raise self._invalid("it gives the same page twice")
        return digest

    def _invalid(self, found: str) -> Refused:
        return Refused(Reason.SOURCE_ANSWER_INVALID, f"{self._place}: {found}")


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _step_digest(url: str, parameters: Mapping[str, str]) -> str:
    return hashlib.sha256(repr((url, sorted(parameters.items()))).encode()).hexdigest()
