"""Everything that clients and collections do to two repositories, for the scheduler; and what has to be true then."""

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from registry.collector.collection import Collection
from registry.collector.rules import Rules
from registry.errors import ManifestBlobUnknown
from registry.names import RepositoryName, Tag
from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities, Stat
from storage.errors import StorageUnavailable
from storage.memory import MemoryDriver, MemoryReader, MemoryWriter
from storage.places import Kind, Place, read_key
from storage.removals import DONE
from tests.races.schedules import Schedule, ScheduledDriver, _wait
from tests.registry.images import CONFIG, LAYER, encode, image, index
from tests.registry.services import OTHER, REPOSITORY, Services, body
from tests.stores import Clock

OTHER_LAYER = b"another layer"
LAST_LAYER = b"a layer of the last"
BLOBS = {"config": CONFIG, "layer": LAYER, "other": OTHER_LAYER, "last": LAST_LAYER}

ONE, TWO = encode(image(LAYER)), encode(image(OTHER_LAYER))
SUBJECT = {"mediaType": image()["mediaType"], "digest": str(Digest.of(ONE)), "size": len(ONE)}
BODIES = {
    "one": ONE,
    "two": TWO,
    "both": encode(image(LAYER, LAST_LAYER)),
    "index": encode(index(ONE, TWO)),
    "unnamed": encode(image(OTHER_LAYER, LAST_LAYER, media_type=None)),
    "signature": encode(image(LAST_LAYER, subject=SUBJECT)),
}
DIGESTS = {name: Digest.of(text) for name, text in BODIES.items()}
NAMES = {str(digest): name for name, digest in DIGESTS.items()}
CHILDREN = {"index": ("one", "two")}
NEEDS = {
    "one": (CONFIG, LAYER),
    "two": (CONFIG, OTHER_LAYER),
    "both": (CONFIG, LAYER, LAST_LAYER),
    "unnamed": (CONFIG, OTHER_LAYER, LAST_LAYER),
    "signature": (CONFIG, LAST_LAYER),
}
TAGS = ("t", "u")
REPOSITORIES = (REPOSITORY, OTHER)
KINDS = ("put", "chunks", "mount")
ATTEMPTS = 6

Operation = tuple[str, ...]


class CollectedDriver(ScheduledDriver):
    """Every call is a step, of uploads too; and each object of a bulk deletion goes by itself."""

    def __init__(self, capabilities: Capabilities, clock: Clock) -> None:
        super().__init__(capabilities)
        self._clock = clock

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:  # noqa: ARG002  # as above it
        for key in keys:
            await self.delete(key)

    async def open(self, key: str) -> MemoryReader:
        await self._step()
        return await super().open(key)

    async def stage(self, key: str, *, record: str = "", text: bytes = b"") -> None:
        await self._step()
        await super().stage(key, record=record, text=text)

    async def stat_staged(self, key: str, *, record: str = "") -> Stat:
        await self._step()
        return await super().stat_staged(key, record=record)

    async def open_staged(self, key: str, *, record: str = "") -> MemoryWriter:
        await self._step()
        writer = await super().open_staged(key, record=record)
        for name in ("write", "flush", "commit"):
            setattr(writer, name, partial(self._stepped, getattr(writer, name)))
        return writer

    async def _stepped(
        self, call: Callable[..., Coroutine[Any, Any, object]], *given: object, **named: object
    ) -> object:
        await self._step()
        return await call(*given, **named)


@dataclass(slots=True)
class Collecting(Schedule):
    """A schedule with collections, whose clock may go on in the middle of anything that does not count seconds."""

    rules: Rules = field(default_factory=Rules)
    collections: int = 0

    def worker(self) -> Services:
        """Return another worker on the store, whose waits are turns."""
        services = Schedule.worker(self)
        services.removals._pause = self.wait
        services.arrivals._pause = self.wait
        return services

    async def wait(self, seconds: float) -> None:
        """Wait for others, or until the clock has gone on by seconds."""
        until = self.clock() + seconds
        await _wait()
        while seconds >= 1 and self.clock() < until:
            await _wait()

    def collection(self, rules: Rules | None = None) -> Collection:
        """Return a collection, which is a process of its own."""
        services = self.worker()
        self.collections += 1
        run = self.collections
        ids = (f"run{run}-{number}" for number in range(1_000_000))
        return Collection(services.collector_stores(), rules or self.rules, clock=self.clock, new_id=lambda: next(ids))

    def finish(self, work: Coroutine[Any, Any, object]) -> object:
        """Run something that nobody disturbs to its end; the clock goes on when it waits."""
        try:
            while True:
                turn = work.send(None)  # None where somebody only lets others go on
                self.clock.now += 1.0 if turn and turn.pauses else 0.0
        except StopIteration as end:
            return end.value

    def go_on(self) -> None:
        """Let a second pass, if nobody counts seconds."""
        announced = (keys.REMOVALS, keys.DELETING)
        for key, found in self.driver._objects.items():
            if key.startswith(announced) and not found.body.endswith(DONE):
                return
        self.clock.now += 1.0


def work(operation: Operation, schedule: Collecting, services: Services) -> Coroutine[Any, Any, object]:
    """What a client, or the operator, does."""
    match operation:
        case "push", repository, name, tag, kind:
            return push(services, RepositoryName(repository), name, tag, kind)
        case "put", repository, name, tag:
            return put(services, RepositoryName(repository), name, tag)
        case "delete", repository, name:
            return services.manifests.delete(RepositoryName(repository), DIGESTS[name])
        case "untag", repository, tag:
            return services.manifests.delete(RepositoryName(repository), Tag(tag))
        case "delete blob", repository, name:
            return services.blobs.delete(RepositoryName(repository), Digest.of(BLOBS[name]))
        case "push blob", repository, name, kind:
            return push_blob(services, RepositoryName(repository), BLOBS[name], kind)
        case ("collect",):
            return schedule.collection().run(brake=False)
    raise AssertionError(operation)


async def push(services: Services, repository: RepositoryName, name: str, tag: str, kind: str) -> object:
    """What docker does: ask for each blob, push what is not there, and all of it again if something is gone then."""
    for attempt in range(ATTEMPTS):
        try:
            for content in NEEDS.get(name, ()):
                if attempt or not await services.blob_store.exists(repository, Digest.of(content)):
                    await push_blob(services, repository, content, kind)
            for child in CHILDREN.get(name, ()):
                if attempt or not await services.manifest_store.exists(repository, DIGESTS[child]):
                    await push(services, repository, child, "", kind)
            return await put(services, repository, name, tag)
        except (ManifestBlobUnknown, StorageUnavailable):
            if attempt == ATTEMPTS - 1:
                raise
    return None


async def put(services: Services, repository: RepositoryName, name: str, tag: str) -> object:
    """Push a manifest alone, as a rollback does."""
    media_type = None if name != "unnamed" else str(image()["mediaType"])
    return await services.manifests.put(
        repository, Tag(tag) if tag else DIGESTS[name], BODIES[name], media_type=media_type
    )


async def push_blob(services: Services, repository: RepositoryName, content: bytes, kind: str) -> None:
    """Push a blob in one of the ways there are."""
    digest = Digest.of(content)
    if kind == "mount":
        source = OTHER if repository == REPOSITORY else REPOSITORY
        if await services.uploads.mount(repository, digest, source):
            return
    if kind == "chunks":
        begun = (await services.uploads.begin(repository)).record.id
        await services.uploads.append(repository, begun, body(content[:3]))
        await services.uploads.append(repository, begun, body(content[3:]))
        await services.uploads.finish(repository, begun, digest, body())
        return
    await services.uploads.put(repository, digest, body(content))


class Tree:
    """The store as its objects say, read without any code of the registry's."""

    def __init__(self, driver: MemoryDriver) -> None:
        self.objects = {key: found.body for key, found in driver._objects.items()}
        self.places = [read_key(key) for key in self.objects]
        self.links: dict[str, dict[Kind, set[str]]] = {}
        for place in self.places:
            if place.kind in {Kind.LAYER, Kind.REVISION}:
                self.links.setdefault(place.repository, {}).setdefault(place.kind, set()).add(str(place.digest))

    def tags(self) -> Iterator[tuple[str, str, str]]:
        """Yield repository, tag and target."""
        for place in self.places:
            if place.kind is Kind.TAG:
                yield place.repository, place.name, self.objects[place.key].decode()

    def has(self, kind: Kind, repository: str, digest: str) -> bool:
        """Tell whether a repository links to something."""
        return digest in self.links.get(repository, {}).get(kind, ())

    def missing(self, repository: str, digest: str) -> list[str]:
        """What is missing of a manifest and everything that it needs."""
        told = f"{repository} {NAMES.get(digest, digest)}"
        if not self.has(Kind.REVISION, repository, digest):
            return [f"{told} is gone"]
        text = self.bytes(digest)
        if text is None:
            return [f"the bytes of {told} are gone"]
        fields, found = json.loads(text), []
        for needed in (fields.get("config"), *fields.get("layers", ())):
            if needed and not self.has(Kind.LAYER, repository, needed["digest"]):
                found.append(f"{told} lacks {needed['digest']}")
            elif needed and self.bytes(needed["digest"]) is None:
                found.append(f"{told} lacks the bytes of {needed['digest']}")
        for child in fields.get("manifests", ()):
            found += self.missing(repository, child["digest"])
        return found

    def reachable(self, repository: str) -> set[str]:
        """The manifests that tags lead to: through indexes, subjects, and from subjects to referrers."""
        found = {target for name, _tag, target in self.tags() if name == repository}
        while True:
            more = set(found)
            for digest in self.links.get(repository, {}).get(Kind.REVISION, ()):
                text = self.bytes(digest)
                fields = json.loads(text or b"{}")
                subject = fields.get("subject", {}).get("digest")
                if digest in found:
                    more |= {child["digest"] for child in fields.get("manifests", ())} | ({subject} - {None})
                elif subject in found:
                    more.add(digest)
            if more == found:
                return found
            found = more

    def garbage(self) -> list[str]:
        """What nothing leads to."""
        found, linked = [], set[str]()
        for repository, links in self.links.items():
            reachable = self.reachable(repository)
            needed = {needed for digest in reachable for needed in self._needs(digest)}
            found += [
                f"{repository}: the manifest {NAMES[each]}" for each in links.get(Kind.REVISION, set()) - reachable
            ]
            found += [f"{repository}: the layer {each}" for each in links.get(Kind.LAYER, set()) - needed]
            for digests in links.values():
                linked |= digests
            linked |= needed  # of which a push that has died may lack the link: a repair writes that again
        for place in self.places:
            if place.kind is Kind.BLOB and str(place.digest) not in linked:
                found.append(f"bytes {place.digest}")
            if place.kind in {Kind.FRESH, Kind.DELETING}:
                found.append(place.key)
            if place.kind is Kind.CATALOG and not self.links.get(place.repository):
                found.append(f"catalog: {place.repository}")
            if place.kind in {Kind.REFERRER, Kind.MEDIA_TYPE} and not self._is_held(place):
                found.append(place.key)
        return found

    def _is_held(self, place: Place) -> bool:
        return self.has(Kind.REVISION, place.repository, str(place.digest))

    def _needs(self, digest: str) -> Iterable[str]:
        fields = json.loads(self.bytes(digest) or b"{}")
        return [each["digest"] for each in (fields.get("config"), *fields.get("layers", ())) if each]

    def bytes(self, digest: str) -> "bytes | None":
        """The bytes of a blob, if they are what they should be."""
        text = self.objects.get(keys.blob(Digest.parse(digest)))
        return text if text is not None and str(Digest.of(text)) == digest else None
