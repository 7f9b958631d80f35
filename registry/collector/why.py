"""What keeps a manifest or a blob, repository by repository."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from registry.collector.listing import is_there, repositories
from registry.collector.marking import Marked, Marker
from registry.collector.rules import CollectorStores, Rules
from registry.times import local_time
from storage import keys
from storage.collected import LINKS
from storage.digest import Digest

CHAINS_TOLD_MAX = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a repository holds something, or what has become of it."""

    repository: str
    is_kept: bool
    text: str


class Why:
    """Looks at every repository that links to a digest."""

    def __init__(self, stores: CollectorStores, rules: Rules, *, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._rules = rules
        self._clock = clock

    async def tell(self, digest: Digest) -> AsyncIterator[Reason]:
        """Yield what is known."""
        now = self._clock()
        marker = Marker(self._stores, self._rules, now=now, sessions=await self._stores.uploads.open_since())
        async for repository in repositories(self._stores.driver):
            is_manifest = await is_there(self._stores.driver, keys.revision_link(repository, digest))
            is_layer = await is_there(self._stores.driver, keys.layer_link(repository, digest))
            if not is_manifest and not is_layer:
                continue
            marked = await marker.mark(repository)
            if marked.kept:
                yield Reason(repository, True, f"everything here is kept: {marked.kept}")  # noqa: FBT003  # a field
                continue
            if is_manifest:
                yield self._manifest(marked, str(digest))
            if is_layer:
                yield self._layer(marked, str(digest))
        async for taken in self._stores.collected.since(0, kind=LINKS):
            if taken is None or taken.undone:
                continue
            if any(str(digest) in pair for pair in (*taken.manifests, *taken.layers)):
                until = taken.when + self._rules.trash_seconds
                text = f"taken at {local_time(taken.when)} by run {taken.run}"
                kept = until > now
                yield Reason(
                    taken.repository,
                    kept,
                    f"{text}; in the trash until {local_time(until)}" if kept else f"{text}, for good",
                )

    def _manifest(self, marked: Marked, digest: str) -> Reason:
        if digest in marked.garbage.nodes:
            return Reason(marked.repository, is_kept=False, text=f"nothing keeps the manifest: {GOES}")
        return Reason(marked.repository, is_kept=True, text=_chain(marked, digest))

    def _layer(self, marked: Marked, digest: str) -> Reason:
        users = [
            each
            for each, node in marked.graph.nodes.items()
            if digest in node.references and each not in marked.garbage.nodes
        ]
        if users:
            chains = [_chain(marked, each, "blob of ") for each in sorted(users)[:CHAINS_TOLD_MAX]]
            more = f"; and {len(users) - len(chains)} manifests more" if len(users) > len(chains) else ""
            return Reason(marked.repository, is_kept=True, text="; ".join(chains) + more)
        if any(digest == each for each, _canonical in marked.garbage_layers):
            return Reason(marked.repository, is_kept=False, text=f"no manifest needs the blob: {GOES}")
        return Reason(
            marked.repository, is_kept=True, text="no manifest needs the blob, which is young, or of an open upload"
        )


def _chain(marked: Marked, digest: str, start: str = "") -> str:
    """From a manifest to what it was reached from, up to what is needed by itself."""
    parts, each = [f"{start}manifest {digest}"], digest
    while each not in marked.roots and each in marked.origins:
        before, node = marked.origins[each], marked.graph.nodes[each]
        how = "refers to" if node.subject == before else "is referred to by"
        parts.append(f"{how} {before}")
        each = before
    reason = marked.roots.get(each, "needed")
    told = {"young": "younger than gc.grace_seconds", "history": "in the history of a tag"}.get(reason, reason)
    return f"{' which '.join(parts)}: {told}"


GOES = "it goes with the next collection"
