"""Conditional requests (RFC 9110, section 13). An entity tag is the digest in quotes."""

from collections.abc import Callable

from registry.api.requests import Request
from registry.errors import PreconditionFailed
from storage.digest import Digest


def is_unchanged(request: Request, digest: Digest) -> bool:
    """Whether If-None-Match names what the client would get: then 304 is the answer."""
    tags = _entity_tags(request, b"if-none-match")
    return tags is not None and _matches(tags, digest)


def wants_range(request: Request, digest: Digest) -> bool:
    """Whether the Range header counts: an If-Range that names other content voids it."""
    condition = request.header(b"if-range")
    return condition is None or condition == f'"{digest}"'


def tag_condition(request: Request) -> Callable[[Digest | None], None] | None:
    """What If-Match and If-None-Match ask of the tag that is about to be moved; None if they ask nothing."""
    # Read once: `allow` is asked twice for each tag, and a header has room for a thousand entity tags.
    must, must_not = _entity_tags(request, b"if-match"), _entity_tags(request, b"if-none-match")
    if must is None and must_not is None:
        return None

    def allow(current: Digest | None) -> None:
        if must is not None and (current is None or not _matches(must, current)):
            raise PreconditionFailed(f"If-Match does not hold: the tag points at {current or 'nothing'}")
        if must_not is not None and current is not None and _matches(must_not, current):
            raise PreconditionFailed(f"If-None-Match does not hold: the tag points at {current}")

    return allow


def _entity_tags(request: Request, name: bytes) -> frozenset[str] | None:
    # docker sends the digest without quotes; weak tags compare as strong ones do, since content is immutable.
    text = request.header(name)
    if text is None:
        return None
    return frozenset(tag.strip().removeprefix("W/").strip('"') for tag in text.split(","))


def _matches(tags: frozenset[str], digest: Digest) -> bool:
    return "*" in tags or str(digest) in tags
