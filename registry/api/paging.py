"""Pages of listings: `n`, `last`, and the Link to the next page (distribution-spec, "Listing Tags"; RFC 8288)."""

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from registry.api.requests import Request
from registry.api.responses import Header, header
from registry.errors import BadRequest

PAGE_MAX = 10_000
DIGITS_MAX = 19


def page_size(request: Request, *, unasked: int = PAGE_MAX) -> int:
    """How many entries the client wants at most, `unasked` if it does not say; a Link leads to the rest.

    Nobody gets more than PAGE_MAX.

    Raises BadRequest if `n` is no whole number.
    """
    text = request.query.first("n")
    if text is None:
        return unasked
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("n has to be a whole number, not negative")
    return min(int(text), PAGE_MAX) if len(text) < DIGITS_MAX else PAGE_MAX


def next_page(request: Request, path: str, parameters: Sequence[tuple[str, str | int]]) -> list[Header]:
    """The header that leads to the next page: relative to the root, so that it holds behind any proxy."""
    query = urlencode(parameters, quote_via=quote, safe="")
    return [header(b"link", f'<{request.root}{path}?{query}>; rel="next"')]
