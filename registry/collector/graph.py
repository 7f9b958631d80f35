"""What refers to what in one repository: manifests, and the blobs that they need."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from registry.documents import Document, read_manifest

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}(?![0-9a-f])|sha512:[0-9a-f]{128}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest: its digest and the canonical one, and the digests that stand in it, all as text.

    `blobs` are those that it can't be pulled without: they are no manifests, which may be deleted by themselves.
    """

    digest: str
    canonical: str
    references: frozenset[str]
    subject: str | None
    blobs: frozenset[str] = frozenset()


def read_references(body: bytes) -> tuple[frozenset[str], str | None]:
    """Every digest that stands anywhere in a manifest, and the subject among them. Raises ValueError.

    So nothing that any client may read out of it is missed, whatever its shape: rather too much is kept.
    """
    try:
        fields = json.loads(body)
        if b"\\" in body:
            # A digest may hide behind escapes.
            body = b"%s %s" % (body, json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("the JSON is not an object")
    found = frozenset(digest.decode("ascii") for digest in _DIGEST.findall(body))
    subject = fields.get("subject")
    named = subject.get("digest") if isinstance(subject, dict) else None
    return found, named if isinstance(named, str) and named in found else None


def read_blobs(body: bytes) -> frozenset[str]:
    """The blobs that a manifest describes; none if it is of a type whose parts nobody knows."""
    document = read_known(body)
    references = () if document is None else document.references
    return frozenset(str(each.digest) for each in references if not each.is_manifest and not each.is_foreign)


def read_known(body: bytes) -> Document | None:
    """A manifest as the referrers are told of it; None for one that another registry took, and this one would not."""
    try:
        return read_manifest(body)
    except ValueError:
        return None


class Graph:
    """The manifests of a repository, by digest."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes: Mapping[str, Node] = {node.digest: node for node in nodes}
        self._referrers: dict[str, list[str]] = defaultdict(list)
        for node in self.nodes.values():
            if node.subject is not None:
                self._referrers[node.subject].append(node.digest)

    def reachable(self, roots: Iterable[str], origins: dict[str, str] | None = None) -> set[str]:
        """The digests of the manifests that roots lead to, the roots that are there among them.

        What a manifest refers to is reached from it, its subject and an index's entries included; and what refers to
        it as its subject. `origins` is told by what each was reached that is no root.
        """
        found = {root for root in roots if root in self.nodes}
        waiting = list(found)
        while waiting:
            digest = waiting.pop()
            for other in self._neighbours(digest):
                if other not in found and other in self.nodes:
                    found.add(other)
                    waiting.append(other)
                    if origins is not None:
                        origins[other] = digest
        return found

    def referrers(self, subject: str) -> list[str]:
        """The manifests whose subject a digest is."""
        return self._referrers.get(subject, [])

    def needed(self, manifests: Iterable[str]) -> set[str]:
        """Everything that manifests refer to."""
        found: set[str] = set()
        for digest in manifests:
            found |= self.nodes[digest].references
        return found

    def levels(self, manifests: set[str]) -> list[list[str]]:
        """Manifests in lists: each stands in a later list than those that refer to it."""
        depth: dict[str, int] = dict.fromkeys(manifests, 0)
        waiting = list(manifests)
        while waiting:
            digest = waiting.pop()
            for other in self.nodes[digest].references:
                # Digests can't refer to each other in a circle; a subject that does so by chance ends here.
                if other in depth and depth[other] <= depth[digest] < len(manifests):
                    depth[other] = depth[digest] + 1
                    waiting.append(other)
        found: dict[int, list[str]] = defaultdict(list)
        for digest, level in depth.items():
            found[level].append(digest)
        return [sorted(found[level]) for level in sorted(found)]

    def _neighbours(self, digest: str) -> Iterator[str]:
        yield from self.nodes[digest].references
        yield from self._referrers.get(digest, ())
