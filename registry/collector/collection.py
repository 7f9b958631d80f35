"""One collection from beginning to end: look at everything, and only then take anything."""

from collections.abc import Callable, Iterator

import structlog

from registry.collector.bytes import Unlinked, delete_unlinked, find_unlinked
from registry.collector.graph import Graph
from registry.collector.listing import repositories
from registry.collector.marking import Marked, Marker
from registry.collector.reports import Outcome, Report
from registry.collector.rules import CollectorStores, Rules
from registry.collector.taking import Taker
from registry.scan import LinkedDigests
from storage import keys
from storage.collected import LINKS
from storage.digest import Digest
from storage.errors import StorageError, StorageUnavailable
from storage.places import Kind
from storage.runs import Run, RunLost
from storage.unlinked import UnlinkedStore
from storage.walk import walk

log = structlog.get_logger(__name__)


class Collection:
    """Collects garbage once. Whoever runs it holds the lease of collections."""

    def __init__(
        self,
        stores: CollectorStores,
        rules: Rules,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._stores = stores
        self._driver = stores.driver
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._unlinked = UnlinkedStore(stores.driver)
        self._found: list[Marked] = []
        self._names: set[str] = set()
        self._bytes_kept = ""

    async def plan(self) -> Report:
        """Look what would be taken, and take nothing."""
        report = Report(self._new_id(), self._clock())
        _marker, unlinked = await self._look(report, None)
        self._count(report, unlinked)
        report.outcome, report.ended = Outcome.PLANNED.value, self._clock()
        return report

    async def run(self, *, brake: bool = True) -> Report:
        """Collect, and store the report. Raises StorageError, and then nothing is half done that matters."""
        report = Report(self._new_id(), self._clock())
        run = Run(self._driver, report.run, clock=self._clock, new_id=self._new_id, pause=self._stores.removals.rest)
        remembered = max(self._rules.log_seconds, self._rules.trash_seconds)
        await self._stores.collected.expire(report.started - remembered)
        try:
            await run.begin()
            await self._collect(report, run, brake=brake)
        except StorageError as error:
            report.reason = str(error)
            raise
        finally:
            await run.end()
            report.ended = self._clock()
            await self._driver.put(keys.COLLECTION_LAST, report.to_json(), durable=False)
        return report

    def garbage(self) -> Iterator[tuple[str, int, int]]:
        """Repositories with how many manifests and links to blobs of each are garbage, after a look."""
        for marked in self._found:
            if marked.has_garbage:
                yield marked.repository, len(marked.garbage.nodes), len(marked.garbage_layers)

    async def _collect(self, report: Report, run: Run, *, brake: bool) -> None:
        marker, unlinked = await self._look(report, run)
        self._count(report, unlinked)
        report.reason = self._brake(report)
        if brake and report.reason:
            report.outcome = Outcome.BRAKED.value
            log.error("a collection has stopped itself", reason=report.reason, remedy=BRAKE_REMEDY)
            return
        taker = Taker(self._stores, marker, run, clock=self._clock)
        self._stores.tally.enter("taking links")
        for marked in self._found:
            await taker.write_down(marked)
        await self._driver.settle()
        for place, marked in enumerate(self._found):
            self._stores.tally.fraction = place / len(self._found)
            try:
                await taker.take(marked)
            except RunLost:
                raise
            except StorageUnavailable as error:
                # What was not taken stays linked, so its bytes have to stay.
                taker.totals.spared |= set(marked.garbage_digests)
                report.kept[marked.repository] = str(error)
        await self._unlinked.write(unlinked.noted.since())
        await self._forget_names(taker)
        report.taken_manifests, report.taken_layers = taker.totals.manifests, taker.totals.layers
        report.outcome, report.reason = Outcome.DONE.value, ""
        if self._bytes_kept:
            report.reason = f"no bytes were deleted: {self._bytes_kept}"
            return
        await self._driver.settle()  # no link leads to them any more, whatever happens to the power
        self._stores.tally.enter("deleting bytes")
        report.deleted_blobs, report.deleted_bytes = await delete_unlinked(
            self._stores, run, unlinked.found, spared=taker.totals.spared, clock=self._clock
        )

    async def _forget_names(self, taker: Taker) -> None:
        """Take from the catalog also what an earlier run has left there that died."""
        async for place in walk(self._driver, keys.CATALOG):
            if place.kind is Kind.CATALOG and place.repository not in self._names:
                await taker.leave_catalog(place.repository)

    async def _look(self, report: Report, run: Run | None) -> tuple[Marker, Unlinked]:
        """Mark all repositories, then look for bytes that nothing leads to."""
        stores, now = self._stores, self._clock()
        linked, held, trash = LinkedDigests(), LinkedDigests(), LinkedDigests()
        async for taken in stores.collected.since(now - self._rules.trash_seconds, kind=LINKS):
            if taken is None:
                self._bytes_kept = "a record of what was taken can't be read"  # nor what it keeps
            elif not taken.undone and self._rules.trash_seconds:
                for _digest, canonical in (*taken.layers, *taken.manifests):
                    held.add(Digest.parse(canonical))
                    trash.add(Digest.parse(canonical))
        marker = Marker(stores, self._rules, now=now, sessions=await stores.uploads.open_since())
        stores.tally.enter("looking at repositories")
        async for repository in repositories(self._driver):
            await stores.pace.rest()
            if run is not None:
                await run.check()
            marked = await marker.mark(repository)
            self._add(report, marked, linked)
            for digest in marked.garbage_digests if self._rules.trash_seconds else ():
                held.add(Digest.parse(digest))
        stores.tally.enter("looking at blobs")
        before = await self._unlinked.read()
        found = await find_unlinked(stores, self._rules, linked=linked, held=held, trash=trash, before=before, now=now)
        return marker, found

    def _add(self, report: Report, marked: Marked, linked: LinkedDigests) -> None:
        for digest in marked.linked:
            linked.add(Digest.parse(digest))
        self._stores.tally.counts["repositories"] += 1
        report.repositories += 1
        self._names.add(marked.repository)
        report.manifests += marked.manifests
        report.garbage_manifests += len(marked.garbage.nodes)
        report.garbage_layers += len(marked.garbage_layers)
        if marked.kept:
            report.kept[marked.repository] = marked.kept
            log.warning(
                "a repository is kept whole", repository=marked.repository, reason=marked.kept, remedy=KEPT_REMEDY
            )
        if marked.is_hidden:
            self._bytes_kept = f"the repository {marked.repository} can't be listed"
        marked.graph, marked.linked, marked.roots, marked.origins = Graph(()), [], {}, {}
        if marked.has_garbage or not marked.manifests:
            self._found.append(marked)

    def _count(self, report: Report, unlinked: Unlinked) -> None:
        report.blobs = unlinked.blobs
        report.garbage_blobs, report.garbage_bytes = unlinked.garbage, unlinked.garbage_bytes

    def _brake(self, report: Report) -> str:
        """Why nothing should be taken before somebody has looked; empty if there is no reason."""
        if report.garbage_blobs and not report.repositories:
            return f"there is no repository at all, and {report.garbage_blobs} blobs would be taken"
        for what, garbage, total in (
            ("manifests", report.garbage_manifests, report.manifests),
            ("blobs", report.garbage_blobs, report.blobs),
        ):
            if garbage > self._rules.brake_floor and garbage > self._rules.brake_share * total:
                return f"{garbage} of {total} {what} would be taken, more than {self._rules.brake_share:.0%}"
        return ""


BRAKE_REMEDY = "look at pierhead gc plan; if that is right, pierhead gc run --no-brake"
KEPT_REMEDY = "run pierhead verify, and push again what it names"
