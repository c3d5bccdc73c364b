"""
Walks the pages of a REST source, and notices when they cannot be all of it.

Pages by number or offset shift when a record leaves the window while they are read: what followed it moves one
place forward, on to a page that was read already. If the answers tell their total, a total that shrank by k
means that no record moved further than k places, so the walk goes k places back; records that come twice are
merged by their key. Without a total that cannot be seen.
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
        is_by_page = self._options.paging == "page"
        # Pages, or records, that lie behind us.
        position, size, covered_count = 0, self._options.page_size, 0
        total: int | None = None
        before = ""
        while True:
            page = self._ask_position(position)
            if total is not None and page.total is not None and page.total < total:
                moved = total - page.total
                position = max(0, position - (-(-moved // size) if is_by_page and size else moved))
                total, before = page.total, ""
                continue
            total = page.total
            before = self._require_new(page, before)
            yield page.records
            size = size or len(page.records)
            covered_count = position * (size if is_by_page else 1) + len(page.records)
            position += 1 if is_by_page else len(page.records)
            if not page.records or (total is not None and covered_count >= total):
                break
            if is_by_page and total is not None and len(page.records) != size:
                raise self._invalid(
                    f"a page should have {size} records, found {len(page.records)} and more to come; "
                    "set page_size to what the source gives"
                )
        if total is not None and covered_count != total:
            raise self._invalid(f"the answers announce {total} records, but end after {covered_count}")

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

    def _ask_position(self, position: int) -> Page:
        if self._options.paging == "offset":
            step = {self._options.offset_parameter: str(position)}
        else:
            step = {self._options.page_parameter: str(self._options.first_page + position)}
        return self._ask(self._url, {**self._parameters, **step})

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
