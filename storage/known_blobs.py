"""Known blobs: what this process has found in which repository, a short while ago."""

from collections import OrderedDict
from dataclasses import dataclass

from storage.digest import Digest

KNOWN_MAX = 16_384


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """A blob that a repository could read at `looked`, in seconds since the epoch: where its bytes lie, how many."""

    canonical: Digest
    size: int
    looked: float


class KnownBlobs:
    """What is in it was so once. Whoever relies on it looks whether anything was removed since."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Digest], KnownBlob] = OrderedDict()

    def get(self, repository: str, digest: Digest, *, since: float) -> KnownBlob | None:
        """What was found at `since` or later."""
        known = self._known.get((repository, digest))
        return known if known is not None and known.looked >= since else None

    def add(self, repository: str, digest: Digest, known: KnownBlob) -> None:
        """Take note of a blob that was just found; the one that was noted longest ago may be forgotten."""
        self._known.pop((repository, digest), None)
        self._known[repository, digest] = known
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def drop(self, repository: str, digest: Digest) -> None:
        """Forget a blob."""
        self._known.pop((repository, digest), None)
