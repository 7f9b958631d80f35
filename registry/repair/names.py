"""Tags that lead nowhere, and manifests that only a tag knows of any more."""

import itertools
from collections.abc import Sequence
from functools import partial

from registry.documents import read_manifest
from registry.errors import NameInvalid
from registry.findings import Severity
from registry.names import RepositoryName, Tag, is_tag, parse_name
from registry.repair.fetching import Fetching
from registry.repair.steps import Step, Tools, Unrepaired
from storage import keys
from storage.digest import SHA256, Digest
from storage.places import Kind, Place
from storage.timelines import Cause, Why
from storage.walk import walk

REPAIRED = Cause("operator", Why.RESTORE)


class Names:
    """A tag is set only while it is as it was found, and by the way that a push takes."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._fetching = Fetching(tools)

    async def tag(self, place: Place) -> Step | None:
        """A tag that can't be read, or points at a manifest that the repository does not hold."""
        try:
            name = parse_name(place.repository)
        except NameInvalid:
            return None
        if not is_tag(place.name):
            return None
        tag = Tag(place.name)
        current = await self._tools.inspection.link(place.key)
        if isinstance(current, Digest) and (step := await self._target(name, current)) is not None:
            return step
        return await self._restored(name, tag, current if isinstance(current, Digest) else None)

    async def _target(self, name: RepositoryName, digest: Digest) -> Step | None:
        """The manifest that a tag points at, held again: from its bytes here, or from elsewhere."""
        body = await self._tools.manifest_body(digest, digest) if digest.algorithm == SHA256 else None
        if body is not None:
            do = partial(self._hold, name, digest, body, None)
            return Step("the link to the manifest was written again", do)
        remotes = await self._fetching.remotes_of(name, digest)
        if not remotes:
            return None

        async def fetch() -> None:
            fetched = await self._fetching.manifest(remotes, name, digest)
            await self._hold(name, digest, fetched.body, fetched.media_type)

        return Step(f"its manifest was fetched from {remotes[0].url}", fetch)

    async def _hold(self, name: RepositoryName, digest: Digest, body: bytes, media_type: str | None) -> None:
        """Push a manifest by its digest, and before it the blobs that the repository lacks and others have."""
        stored = await self._tools.stores.manifests.media_type(name, digest)
        await self._complete(name, body)
        told = stored or (media_type or "").partition(";")[0].strip().lower() or None
        await self._tools.manifests.put(name, digest, body, media_type=told)

    async def _complete(self, name: RepositoryName, body: bytes) -> None:
        try:
            references = read_manifest(body).references
        except ValueError:
            return  # of a type that is taken as it is
        for descriptor in references:
            held = self._tools.stores.manifests if descriptor.is_manifest else self._tools.stores.blobs
            if descriptor.is_foreign or await held.exists(name, descriptor.digest):
                continue
            if not self._tools.remotes:
                continue  # the push says what is missing
            if descriptor.is_manifest:
                remotes = await self._fetching.remotes_of(name, descriptor.digest)
                fetched = await self._fetching.manifest(remotes, name, descriptor.digest)
                await self._hold(name, descriptor.digest, fetched.body, fetched.media_type)
            elif (step := await self._fetching.blob(name, descriptor.digest)) is not None:
                await step.do()

    async def _restored(self, name: RepositoryName, tag: Tag, current: Digest | None) -> Step | None:
        """The tag set to the last manifest that it pointed at and that is whole still."""
        states = await self._states(name, tag)
        if self._tools.immutability.rule(name, tag):
            states = states[:1]  # whoever relies on it gets what it points at, or nothing
        for digest in states:
            if digest == current or not await self._is_good(name, digest):
                continue

            async def do(digest: Digest = digest) -> None:
                await self._set(name, tag, digest, current)

            return Step(f"set to {digest}, which it pointed at before", do)
        return None

    async def _set(self, name: RepositoryName, tag: Tag, digest: Digest, current: Digest | None) -> None:
        def allow(found: Digest | None, _new: Digest) -> None:
            if found not in {None, current}:
                raise Unrepaired("the tag was set meanwhile")

        manifest = await self._tools.manifests.get(name, digest)
        media_type = manifest.media_type
        await self._tools.manifests.put(name, tag, manifest.body, media_type=media_type, allow=allow, cause=REPAIRED)

    async def _is_good(self, name: RepositoryName, digest: Digest) -> bool:
        if digest.algorithm != SHA256:
            return False  # pushed by tag it would get its sha256 digest
        if not isinstance(await self._tools.inspection.link(keys.revision_link(name, digest)), Digest):
            return False
        examined = await self._tools.inspection.revision(name, digest)
        return not any(finding.severity is Severity.ERROR for finding in examined.findings)

    async def _states(self, name: RepositoryName, tag: Tag) -> Sequence[Digest]:
        """What the tag has pointed at since it was last set anew, the newest first, as far as its records tell.

        Without any record its index tells, if it knows of one manifest only: an index has no order.
        """
        marks = await self._tools.history.marks(name, tag)
        if marks:
            since = itertools.takewhile(lambda digest: digest is not None, (mark.new for mark in reversed(marks)))
            return list(dict.fromkeys(digest for digest in since if digest is not None))
        found = [
            place.digest
            async for place in walk(self._tools.driver, keys.tag_index(name, tag))
            if place.kind is Kind.TAG_INDEX and place.digest is not None
        ]
        return found if len(found) == 1 else []
