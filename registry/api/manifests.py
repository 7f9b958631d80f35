"""Manifests over HTTP: end-3, 7a, 7b and 9."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from registry.api.auditing import Auditor
from registry.api.bodies import WholeBodies
from registry.api.conditions import is_unchanged, tag_condition
from registry.api.requests import Request
from registry.api.responses import NOSNIFF, Header, Response, header
from registry.audit.events import EventKind
from registry.auth.identities import Action
from registry.earlier import EarlierStates
from registry.errors import Denied, ManifestUnknown, TooManyTags
from registry.manifests import Changes, Manifests
from registry.names import Reference, Tag, is_tag, parse_digest, parse_reference, parse_tag
from registry.retention.pulls import Pulls
from storage.digest import Digest
from storage.timelines import Cause, Why

TAGS_CACHED: Header = (b"cache-control", b"private, no-cache")
DIGESTS_CACHED: Header = (b"cache-control", b"private, max-age=31536000, immutable")
MEDIA_TYPE_CHARACTERS_MAX = 255


class ManifestEndpoints:
    """GET, HEAD, PUT and DELETE of `/v2/<name>/manifests/<reference>`."""

    def __init__(
        self,
        manifests: Manifests,
        earlier: EarlierStates,
        auditor: Auditor,
        *,
        manifest_bytes_max: int,
        tags_max: int,
        pulls: Pulls | None = None,
    ) -> None:
        self._pulls = pulls
        self._manifests = manifests
        self._earlier = earlier
        self._auditor = auditor
        self._bodies = WholeBodies(bytes_max=manifest_bytes_max)
        self._tags_max = tags_max

    async def get(self, request: Request) -> Response:
        """end-3, GET and HEAD: the bytes as they were pushed, under the type that they were pushed with.

        Where there is no such tag, its name may stand for an earlier state of another one.
        """
        reference = _existing(request.tail)
        try:
            manifest = await self._manifests.get(request.repository, reference)
        except ManifestUnknown:
            earlier = None if isinstance(reference, Digest) else await self._earlier.find(request.repository, reference)
            if earlier is None:
                raise
            manifest = await self._manifests.get(request.repository, earlier)
        if self._pulls is not None and request.method == "GET":  # clients that only look send HEAD
            self._pulls.note(request.repository, str(reference))
        digest = str(manifest.digest).encode("ascii")
        headers = [
            header(b"content-type", manifest.media_type),
            (b"docker-content-digest", digest),
            (b"etag", b'"%s"' % digest),
            TAGS_CACHED if isinstance(reference, str) else DIGESTS_CACHED,
            NOSNIFF,
        ]
        if is_unchanged(request, manifest.digest):
            return Response(304, headers[1:])
        return Response(200, headers, manifest.body)

    async def put(self, request: Request) -> Response:
        """end-7a and, for a digest with `?tag=`, end-7b."""
        reference = parse_reference(request.tail)
        tags = [] if isinstance(reference, str) else self._tags(request.query.all("tag"))
        for tag in [reference] if isinstance(reference, str) else tags:
            self._earlier.refuse(tag)
        async with self._bodies.read(request) as body, self._recorded(request) as changes:
            pushed = await self._manifests.put(
                request.repository,
                reference,
                body,
                media_type=_media_type(request),
                tags=tags,
                allow=tag_conditions(request, is_told=self._auditor.is_on),
                changes=changes,
                cause=_cause(request, Why.PUSH),
            )
        location = f"{request.root}/v2/{request.repository}/manifests/{pushed.digest}"
        headers = [header(b"location", location), header(b"docker-content-digest", str(pushed.digest))]
        if pushed.subject is not None:
            headers.append(header(b"oci-subject", str(pushed.subject)))
        if tags:
            headers.append(header(b"oci-tag", ", ".join(tags)))
        if pushed.warning is not None:
            headers.append(header(b"warning", f'299 - "{pushed.warning}"'))
        return Response(201, headers)

    async def delete(self, request: Request) -> Response:
        """end-9: a tag alone, or a manifest with all its tags."""
        async with self._recorded(request) as changes:
            reference, cause = _existing(request.tail), _cause(request, Why.DELETE)
            await self._manifests.delete(request.repository, reference, changes=changes, cause=cause)
        return Response(202)

    @asynccontextmanager
    async def _recorded(self, request: Request) -> AsyncIterator[Changes]:
        """Write down in the audit trail what was done in the `with` block, also if it fails half-way."""
        changes = Changes()
        try:
            yield changes
        finally:
            record = partial(self._auditor.record, request)
            if changes.pushed is not None:
                await record(EventKind.PUSH, reference=str(changes.pushed))
            for tag, before in changes.tagged:
                if before != changes.pushed:
                    kind = EventKind.TAG_CREATED if before is None else EventKind.TAG_MOVED
                    await record(kind, reference=tag, old=before, new=changes.pushed)
            for tag, before in changes.untagged:
                await record(EventKind.TAG_DELETED, reference=tag, old=before)
            if changes.deleted is not None:
                await record(EventKind.MANIFEST_DELETED, reference=str(changes.deleted))

    def _tags(self, texts: Sequence[str]) -> list[Tag]:
        if len(texts) > self._tags_max:
            raise TooManyTags(f"at most {self._tags_max} tags are set at once: push the rest in another request")
        return list(dict.fromkeys(parse_tag(text) for text in texts))


def tag_conditions(request: Request, *, is_told: bool) -> Callable[[Digest | None, Digest], None] | None:
    """Refuse to move a tag where a condition of the request does not hold, or its caller may not overwrite.

    None if nothing can be refused, and it is not told either where tags pointed before.
    """
    condition, caller = tag_condition(request), request.caller
    if condition is None and not is_told and caller.may(Action.OVERWRITE, request.repository):
        return None

    def allow(current: Digest | None, new: Digest) -> None:
        if condition is not None:
            condition(current)
        if current in {None, new} or caller.may(Action.OVERWRITE, request.repository):
            return
        raise Denied(
            "the tag exists, and the policy of this registry does not let you move it: push under another tag",
            detail={"current": str(current)},
        )

    return allow


def _cause(request: Request, why: Why) -> Cause:
    """What the history of tags is told of a request."""
    return Cause(str(request.caller.identity), why)


def _existing(text: str) -> Reference:
    # What breaks the grammar of tags cannot be there: 404, not 400 (the official suite asks for it).
    if ":" in text:
        return parse_digest(text)
    if not is_tag(text):
        raise ManifestUnknown("there is no such tag: it breaks the grammar of tags")
    return Tag(text)


def _media_type(request: Request) -> str | None:
    text = request.header(b"content-type")
    if text is None:
        return None
    media_type = text.partition(";")[0].strip().lower()
    return media_type[:MEDIA_TYPE_CHARACTERS_MAX] or None
