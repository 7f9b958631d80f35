"""What the manifests of one repository need: of each other, by whatever way one manifest leads to another."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from registry.batches import in_time
from registry.documents import read_manifest
from registry.names import RepositoryName
from storage.digest import Digest
from storage.errors import Corrupt, NotFound
from storage.manifests import ManifestStore
from storage.removals import Removal
from storage.together import together


@dataclass(frozen=True, slots=True)
class Node:
    """What a manifest refers to, and its subject."""

    references: frozenset[Digest]
    subject: Digest | None


class Graph:
    """Reads each manifest once: what lies under a digest does not change."""

    def __init__(self, manifests: ManifestStore, repository: RepositoryName, *, calls_at_once: int) -> None:
        self._manifests = manifests
        self._repository = repository
        self._calls_at_once = calls_at_once
        self.nodes: dict[Digest, Node] = {}

    async def read(self, revisions: Iterable[Digest], removal: Removal | None = None) -> list[Digest]:
        """Read those that were not read yet, and return those that can't be read."""
        unreadable: list[Digest] = []

        async def read(digest: Digest) -> None:
            await in_time(removal)
            try:
                canonical = await self._manifests.resolve(self._repository, digest)
                document = read_manifest((await self._manifests.read(digest, canonical)).body)
            except (Corrupt, ValueError):
                unreadable.append(digest)
            except NotFound:
                return  # deleted since it was listed
            else:
                references = frozenset(each.digest for each in document.references)
                subject = None if document.subject is None else document.subject.digest
                self.nodes[digest] = Node(references, subject)
            await asyncio.sleep(0)

        new = [digest for digest in revisions if digest not in self.nodes]
        await together([partial(read, digest) for digest in new], self._calls_at_once)
        return unreadable

    def needed(self, roots: Iterable[Digest], present: Collection[Digest]) -> set[Digest]:
        """Those of the manifests that are there which the roots need, and the roots themselves.

        An index needs what it lists, a referrer its subject; and who is kept keeps its referrers.
        """
        there = set(present)
        referrers: defaultdict[Digest, list[Digest]] = defaultdict(list)
        for digest in there:
            subject = self.nodes[digest].subject if digest in self.nodes else None
            if subject is not None:
                referrers[subject].append(digest)
        kept: set[Digest] = set()
        waiting = [digest for digest in roots if digest in there]
        while waiting:
            digest = waiting.pop()
            if digest in kept:
                continue
            kept.add(digest)
            node = self.nodes.get(digest)
            leads = [*referrers[digest]]
            if node is not None:
                leads += [*node.references, *([] if node.subject is None else [node.subject])]
            waiting += [each for each in leads if each in there and each not in kept]
        return kept


def sorted_digests(digests: Iterable[Digest]) -> Sequence[Digest]:
    """In the order of their text."""
    return sorted(digests, key=str)


def fingerprint(value: object) -> str:
    """A short name for what is the same if and only if this is."""
    return Digest.of(json.dumps(value, sort_keys=True, default=str).encode()).hex[:32]
