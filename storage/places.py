"""What a key that was found in a listing means: the reverse of `storage/keys.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from storage import keys
from storage.digest import Digest


class Kind(Enum):
    """What lies at a key."""

    BLOB = "blob"
    LAYER = "layer link"
    REVISION = "revision link"
    TAG = "tag"
    TAG_INDEX = "entry of a tag's index"
    UPLOAD_BYTES = "bytes of an upload"
    UPLOAD_STARTED = "start of an upload"
    UPLOAD_STATE = "hash state of distribution"
    LAYOUT = "layout version"
    UNADOPTED = "note that the indexes are incomplete"
    IMPORTED = "note that histories have begun"
    UPLOAD_RECORD = "upload record"
    CATALOG = "catalog entry"
    MEDIA_TYPE = "media type"
    REFERRER = "referrer"
    HISTORY = "record of a tag's history"
    PULLS = "record of pulls"
    RETENTION = "state of retention"
    DAMAGED = "damaged marker"
    SOURCE = "blob source"
    REMOVAL = "removal, under way or of late"
    SIGNING_KEY = "signing key"
    ROBOT_TOKEN = "robot's token"  # noqa: S105  # no password
    REFRESH_TOKEN = "refresh token"  # noqa: S105
    AUDIT = "record of the audit trail"
    STAGED = "staged bytes of an upload in a bucket"
    LEASE = "lease of background work"
    SCRUB = "record of the scrub"
    COLLECTION = "state of a garbage collection"
    FRESH = "what arrived while a garbage collection was under way"
    DELETING = "bytes that are being deleted"
    COLLECTED = "what a garbage collection has taken"
    POINTER = "pointer to a blob in a bucket that is not at its key yet"
    USAGE_REPORT = "usage of all repositories"
    USAGE_HEAD = "usage of a prefix"
    USAGE_COUNTED = "blobs that were counted"
    USAGE_ADDED = "blob that was linked to since"
    TEMPORARY = "unfinished file of distribution"
    STRAY = "stray object"


@dataclass(frozen=True, slots=True)
class Place:
    """A key taken apart. `name` is a tag's or an upload's; neither it nor `repository` was checked for grammar.

    `subject` is set for a referrer, whose own digest is `digest`.
    """

    key: str
    kind: Kind
    repository: str = ""
    name: str = ""
    digest: Digest | None = None
    subject: Digest | None = None


def read_key(key: str) -> Place:
    """Take a key apart. What has no place in the layout is STRAY."""
    if key.startswith(keys.REPOSITORIES):
        return _in_repository(key)
    if key.startswith(keys.BLOBS):
        match key.removeprefix(keys.BLOBS).split("/"):
            case [algorithm, start, encoded, "data"]:
                return _digested(key, Kind.BLOB, algorithm, encoded, start=start)
        return _stray(key)
    return _in_ours(key)


def is_object(key: str) -> bool:
    """Tell whether an object may lie at the key, so that a directory may not."""
    return read_key(key).kind not in {Kind.STRAY, Kind.TEMPORARY}


def _in_repository(key: str) -> Place:
    repository, tail = _split(key.removeprefix(keys.REPOSITORIES))
    if not repository:
        return _stray(key)
    match tail:
        case ["_layers", algorithm, encoded, "link"]:
            return _digested(key, Kind.LAYER, algorithm, encoded, repository=repository)
        case ["_manifests", "revisions", algorithm, encoded, "link"]:
            return _digested(key, Kind.REVISION, algorithm, encoded, repository=repository)
        case ["_manifests", "tags", tag, "current", "link"]:
            return Place(key, Kind.TAG, repository, tag)
        case ["_manifests", "tags", tag, "index", algorithm, encoded, "link"]:
            return _digested(key, Kind.TAG_INDEX, algorithm, encoded, repository=repository, name=tag)
        case ["_uploads", upload, "data"]:
            return Place(key, Kind.UPLOAD_BYTES, repository, upload)
        case ["_uploads", upload, "startedat"]:
            return Place(key, Kind.UPLOAD_STARTED, repository, upload)
        case ["_uploads", upload, "hashstates", _algorithm, _offset]:
            return Place(key, Kind.UPLOAD_STATE, repository, upload)
    return _stray(key)


def _in_ours(key: str) -> Place:
    match key.split("/"):
        case [keys.OURS, "layout"]:
            return Place(key, Kind.LAYOUT)
        case [keys.OURS, "unadopted"]:
            return Place(key, Kind.UNADOPTED)
        case [keys.OURS, "retention"]:
            return Place(key, Kind.RETENTION)
        case [keys.OURS, "imported"]:
            return Place(key, Kind.IMPORTED)
        case [keys.OURS, "uploads", upload]:
            return Place(key, Kind.UPLOAD_RECORD, name=upload)
        case [keys.OURS, "catalog", *parts] if parts and parts[-1].endswith(keys.CATALOG_END):
            return Place(key, Kind.CATALOG, "/".join(parts).removesuffix(keys.CATALOG_END))
        case [keys.OURS, "damaged", algorithm, start, encoded]:
            return _digested(key, Kind.DAMAGED, algorithm, encoded, start=start)
        case [keys.OURS, "sources", algorithm, start, encoded]:
            return _digested(key, Kind.SOURCE, algorithm, encoded, start=start)
        case [keys.OURS, "removals", *parts]:
            return _in_removals(key, *_split("/".join(parts)))
        case [keys.OURS, "usage", *parts]:
            return _in_usage(key, *_split("/".join(parts)))
        case [keys.OURS, "repositories", *parts]:
            return _in_our_repository(key, *_split("/".join(parts)))
    return _in_accounts(key)


def _in_accounts(key: str) -> Place:
    match key.split("/"):
        case [keys.OURS, "keys", slot]:
            return Place(key, Kind.SIGNING_KEY, name=slot)
        case [keys.OURS, "robots", robot, _token]:
            return Place(key, Kind.ROBOT_TOKEN, name=robot)
        case [keys.OURS, "refresh", _owner, token]:
            return Place(key, Kind.REFRESH_TOKEN, name=token)
        case [keys.OURS, "staged", _, *_]:
            return Place(key, Kind.STAGED)
        case [keys.OURS, "pointers", *parts]:
            blob = read_key("/".join(parts))
            return replace(blob, key=key, kind=Kind.POINTER) if blob.kind is Kind.BLOB else _stray(key)
        case [keys.OURS, "scrub", "shards" | "cursor" as name]:
            return Place(key, Kind.SCRUB, name=name)
        case [keys.OURS, "leases", name]:
            return Place(key, Kind.LEASE, name=name)
        case [keys.OURS, "gc", *parts]:
            return _in_collection(key, parts)
        case [keys.OURS, "audit", *parts] if parts:
            return Place(key, Kind.AUDIT, name="/".join(parts))
    return _stray(key)


def _in_collection(key: str, parts: Sequence[str]) -> Place:
    match parts:
        case ["run" | "last" | "unlinked"]:
            return Place(key, Kind.COLLECTION)
        case ["fresh", run, "blobs" | "manifests", name]:
            algorithm, _, encoded = name.partition("-")
            return _digested(key, Kind.FRESH, algorithm, encoded, name=run)
        case ["deleting", name]:
            return Place(key, Kind.DELETING, name=name)
        case ["log", name]:
            return Place(key, Kind.COLLECTED, name=name)
    return _stray(key)


def _in_removals(key: str, repository: str, tail: Sequence[str]) -> Place:
    match tail:
        case ["_layers" | "_revisions", algorithm, encoded, name]:
            return _digested(key, Kind.REMOVAL, algorithm, encoded, repository=repository, name=name)
        case ["_tags", tag, _]:
            return Place(key, Kind.REMOVAL, repository, tag)
        case ["_catalog" | "_repository" | "_collection" | "_again", _]:
            return Place(key, Kind.REMOVAL, repository)
    return _stray(key)


def _in_usage(key: str, prefix: str, tail: Sequence[str]) -> Place:
    match prefix, tail:
        case "", ["_report"]:
            return Place(key, Kind.USAGE_REPORT)
        case "", _:
            return _stray(key)
        case _, ["_head"]:
            return Place(key, Kind.USAGE_HEAD, prefix)
        case _, ["_counted", name]:
            return Place(key, Kind.USAGE_COUNTED, prefix, name)
        case _, ["_added", name]:
            return Place(key, Kind.USAGE_ADDED, prefix, name)
    return _stray(key)


def _in_our_repository(key: str, repository: str, tail: Sequence[str]) -> Place:
    match tail:
        case ["_types", algorithm, encoded]:
            return _digested(key, Kind.MEDIA_TYPE, algorithm, encoded, repository=repository)
        case ["_referrers", algorithm, encoded, referrer]:
            try:
                subject = Digest.parse(f"{algorithm}:{encoded}")
                digest = Digest.parse(referrer.replace("-", ":", 1))
            except ValueError:
                return _stray(key)
            return Place(key, Kind.REFERRER, repository, digest=digest, subject=subject)
        case ["_pulls", record]:
            return Place(key, Kind.PULLS, repository) if record else _stray(key)
        case ["_history", tag, record]:
            return _in_history(key, repository, tag, record)
    return _stray(key)


def _in_history(key: str, repository: str, tag: str, record: str) -> Place:
    match record.split("."):
        case [time, change, _] if len(time) == keys.TIME_DIGITS and time.isascii() and time.isdigit():
            if change == keys.GONE:
                return Place(key, Kind.HISTORY, repository, tag)
            algorithm, _, encoded = change.partition("-")
            return _digested(key, Kind.HISTORY, algorithm, encoded, repository=repository, name=tag)
    return _stray(key)


def _split(rest: str) -> tuple[str, Sequence[str]]:
    """The repository's name and what follows: no component of a name starts with an underscore."""
    parts = rest.split("/")
    end = next((place for place, part in enumerate(parts) if part.startswith("_")), len(parts))
    return "/".join(parts[:end]), parts[end:]


def _digested(
    key: str,
    kind: Kind,
    algorithm: str,
    encoded: str,
    *,
    repository: str = "",
    name: str = "",
    start: str | None = None,
) -> Place:
    try:
        digest = Digest.parse(f"{algorithm}:{encoded}")
    except ValueError:
        return _stray(key)
    if start is not None and start != encoded[:2]:
        return _stray(key)
    return Place(key, kind, repository, name, digest)


def _stray(key: str) -> Place:
    # distribution 3.1 writes `<name>.<uuid>.tmp` and then renames; a crash leaves it.
    return Place(key, Kind.TEMPORARY if key.startswith(keys.ROOT) and key.endswith(".tmp") else Kind.STRAY)
