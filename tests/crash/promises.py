"""What a registry has promised, and whether it keeps that: the ledger and its check over the API."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from tests.crash.clients import Answer, Client


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a repository."""

    repository: str
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of a repository, by its digest."""

    repository: str
    digest: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of a repository."""

    repository: str
    tag: str


@dataclass(frozen=True, slots=True)
class Referrer:
    """A line in the list of what refers to a subject."""

    repository: str
    subject: str
    digest: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An open upload session."""

    repository: str
    id: str


Item = Blob | Manifest | Tag | Referrer | Upload

GONE = ""
"""The outcome of what is not there."""
THERE = "there"
"""The outcome of a blob, a manifest or a referrer that is. A tag's is the digest that it points at."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The outcome of a session: it holds between `first` and `last` bytes, or must be gone if `lost_is_fine`."""

    first: int
    last: int


Outcome = str | Kept
Effects = Mapping[Item, Outcome]


@dataclass(slots=True)
class Ledger:
    """For each thing the outcomes that are honest. One, once it is acknowledged; several while nobody knows.

    `contents` are the bytes of each digest, `media_types` the type that a manifest was pushed with.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    media_types: dict[str, str] = field(default_factory=dict)
    sent: dict[Upload, bytes] = field(default_factory=dict)
    honest: dict[Item, frozenset[Outcome]] = field(default_factory=dict)

    def begin(self, effects: Effects) -> None:
        """A request is under way: what it changes may be as before or as it will be, nothing between."""
        for item, outcome in effects.items():
            self.honest[item] = self.honest.get(item, frozenset([GONE])) | {outcome}

    def acknowledge(self, effects: Effects) -> None:
        """The request was answered with success: only the new outcome is honest."""
        for item, outcome in effects.items():
            settled = Kept(outcome.last, outcome.last) if isinstance(outcome, Kept) else outcome
            self.honest[item] = frozenset([settled])

    def copy(self) -> "Ledger":
        """A ledger of its own with the same entries; contents are shared."""
        return Ledger(self.contents, self.media_types, self.sent, dict(self.honest))


def check(client: Client, ledger: Ledger, items: Iterable[Item] | None = None, *, is_told: bool = False) -> list[str]:
    """Compare what the API answers with the ledger; returns a line for each promise that is broken.

    `is_told` says that each acknowledged change of a tag has a record, since none was made again after a crash.
    """
    wanted = list(ledger.honest if items is None else items)
    broken: list[str] = []
    found: dict[Item, Outcome] = {}
    for item in wanted:
        try:
            found[item] = _observe(client, ledger, item)
        except AssertionError as error:
            broken.append(f"{item}: {error}")
            continue
        if not any(_matches(found[item], outcome) for outcome in ledger.honest[item]):
            broken.append(f"{item}: is {found[item]!r}, honest is {sorted(map(str, ledger.honest[item]))}")
        elif isinstance(item, Tag) and len(ledger.honest[item]) == 1:
            broken += _check_history(client, item, found[item], is_told=is_told)
    return broken + _check_listings(client, ledger, found)


def _matches(found: Outcome, honest: Outcome) -> bool:
    if isinstance(found, Kept) and isinstance(honest, Kept):
        return honest.first <= found.first <= honest.last
    return found == honest


def _observe(client: Client, ledger: Ledger, item: Item) -> Outcome:
    match item:
        case Blob():
            return _observe_blob(client, ledger, item)
        case Manifest(repository, digest):
            return THERE if _observe_manifest(client, ledger, repository, digest) else GONE
        case Tag(repository, tag):
            return _observe_manifest(client, ledger, repository, tag)
        case Referrer():
            return _observe_referrer(client, item)
        case Upload():
            return observe_upload(client, item)


def _observe_blob(client: Client, ledger: Ledger, item: Blob) -> Outcome:
    target = f"/v2/{item.repository}/blobs/{item.digest}"
    head, got = client.request("HEAD", target), client.request("GET", target)
    assert head.status == got.status, f"HEAD says {head.status}, GET {got.status}"
    if got.status == 404:
        return GONE
    assert got.status == 200, f"GET says {got.status} {got.body[:200]!r}"
    assert got.body == ledger.contents[item.digest], "the bytes are others"
    assert head.headers["content-length"] == str(len(got.body)), "HEAD tells another length"
    return THERE


def _observe_manifest(client: Client, ledger: Ledger, repository: str, reference: str) -> str:
    target = f"/v2/{repository}/manifests/{reference}"
    head, got = client.request("HEAD", target), client.request("GET", target)
    assert head.status == got.status, f"HEAD says {head.status}, GET {got.status}"
    if got.status == 404:
        return GONE
    assert got.status == 200, f"GET says {got.status} {got.body[:200]!r}"
    digest = got.headers["docker-content-digest"]
    assert hash_of(got.body, digest.partition(":")[0]) == digest, "the bytes do not hash to their digest"
    assert got.body == ledger.contents[digest], "the bytes are others"
    assert got.headers["content-type"] == ledger.media_types[digest], f"the type is {got.headers['content-type']}"
    assert head.headers["docker-content-digest"] == digest, "HEAD tells another digest"
    assert head.headers["content-length"] == str(len(got.body)), "HEAD tells another length"
    return digest


def _check_history(client: Client, item: Tag, found: Outcome, *, is_told: bool) -> list[str]:
    """The history of a tag never lies about what it points at, and knows what was acknowledged."""
    got = client.request("GET", f"/v2/{item.repository}/_pierhead/tags/{item.tag}/history?n=1")
    if got.status == 404:
        return [f"{item}: has no history"] if found != GONE else []
    if got.status != 200:
        return [f"{item}: its history says {got.status}"]
    (newest,) = json.loads(got.body)["states"]
    if (newest["digest"] or GONE) != found:
        return [f"{item}: is {found!r}, and its history says {newest}"]
    return [f"{item}: its last change was not written down"] if is_told and newest["why"] == "observed" else []


def _observe_referrer(client: Client, item: Referrer) -> Outcome:
    got = client.request("GET", f"/v2/{item.repository}/referrers/{item.subject}")
    assert got.status == 200, f"the list of referrers says {got.status}"
    listed = [entry["digest"] for entry in json.loads(got.body)["manifests"]]
    assert len(listed) == len(set(listed)), "a referrer is listed twice"
    for digest in listed:
        found = client.request("HEAD", f"/v2/{item.repository}/manifests/{digest}")
        assert found.status == 200, f"a referrer is listed that can't be read: {found.status}"
    return THERE if item.digest in listed else GONE


def observe_upload(client: Client, item: Upload) -> Outcome:
    """What the registry says of a session: gone, or how many bytes it has kept (1 may mean 0, end-13)."""
    got = client.request("GET", f"/v2/{item.repository}/blobs/uploads/{item.id}")
    if got.status == 404:
        return GONE
    assert got.status == 204, f"GET of the session says {got.status}"
    last = int(got.headers["range"].removeprefix("0-"))
    return Kept(0, 0) if last == 0 else Kept(last + 1, last + 1)


def _check_listings(client: Client, ledger: Ledger, found: Mapping[Item, Outcome]) -> list[str]:
    broken: list[str] = []
    catalog = list_all(client, "/v2/_catalog?n=1000", "repositories")
    for repository in sorted({item.repository for item in found}):
        answer = client.request("GET", f"/v2/{repository}/tags/list")
        if answer.status not in {200, 404}:
            broken.append(f"the tags of {repository}: {answer.status}")
            continue
        listed = set(json.loads(answer.body)["tags"]) if answer.status == 200 else set()
        seen = {item.tag for item, outcome in found.items() if _is_tag(item, repository) and outcome != GONE}
        known = {item.tag for item in ledger.honest if _is_tag(item, repository)}
        checked = {item.tag for item in found if _is_tag(item, repository)}
        if listed & checked != seen or listed - known:
            broken.append(f"the tags of {repository} are listed as {sorted(listed)}, and are {sorted(seen)}")
        has_manifests = any(
            isinstance(item, Manifest) and item.repository == repository and outcomes == {THERE}
            for item, outcomes in ledger.honest.items()
        )
        if has_manifests and repository not in catalog:
            broken.append(f"the catalog lacks {repository}")
        if has_manifests and answer.status == 404:
            broken.append(f"the repository {repository} holds a manifest and is unknown")
    return broken


def _is_tag(item: Item, repository: str) -> TypeGuard[Tag]:
    return isinstance(item, Tag) and item.repository == repository


def list_all(client: Client, target: str, field_name: str) -> list[str]:
    """Every page of a listing."""
    entries: list[str] = []
    while target:
        answer: Answer = client.request("GET", target)
        assert answer.status == 200, f"{target}: {answer.status} {answer.body!r}"
        entries += json.loads(answer.body)[field_name]
        link = answer.headers.get("link", "")
        target = link.partition("<")[2].partition(">")[0]
    return entries


def hash_of(body: bytes, algorithm: str = "sha256") -> str:
    """The digest of bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
