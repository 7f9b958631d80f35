"""A Pierhead with a mistake in it: it remembers for a moment what a tag points at, each worker for itself.

The checker must find it out; run as `python -m tests.races.stale serve ...`.
"""

import time

from registry.cli.main import main
from storage.digest import Digest
from storage.tags import TagStore

STALE_SECONDS = 0.02

_get = TagStore.get
_known: dict[tuple[str, str], tuple[float, Digest]] = {}


async def _stale_get(self: TagStore, repository: str, tag: str) -> Digest:
    known = _known.get((repository, tag))
    if known is not None and time.monotonic() - known[0] < STALE_SECONDS:
        return known[1]
    digest = await _get(self, repository, tag)
    _known[repository, tag] = (time.monotonic(), digest)
    return digest


if __name__ == "__main__":
    TagStore.get = _stale_get  # type: ignore[method-assign]  # the mistake
    main()
