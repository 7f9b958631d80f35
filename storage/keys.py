"""The whole layout on one page: every key that Pierhead reads or writes.

Everything below `docker/` is the layout of CNCF distribution, which reads what stands here and is read by it;
everything it does not have stands below `pierhead/`. A repository's name holds slashes, so whatever follows a
name starts with `_`, which no component of a name can.
"""

from storage.digest import Digest

ROOT = "docker/registry/v2"
OURS = "pierhead"

LAYOUT = f"{OURS}/layout"
UNADOPTED = f"{OURS}/unadopted"
"""There, while the indexes may lack what another registry has written."""
IMPORTED = f"{OURS}/imported"
"""There, once the histories of all tags have begun."""
UPLOADS = f"{OURS}/uploads/"
CATALOG = f"{OURS}/catalog/"
OUR_REPOSITORIES = f"{OURS}/repositories/"
DAMAGED = f"{OURS}/damaged/"
SOURCES = f"{OURS}/sources/"
AUDIT = f"{OURS}/audit/"
ROBOTS = f"{OURS}/robots/"
REFRESH = f"{OURS}/refresh/"
SIGNING_KEYS = f"{OURS}/keys/"
REMOVALS = f"{OURS}/removals/"
LEASES = f"{OURS}/leases/"
RETENTION = f"{OURS}/retention"
"""Since when the rules of retention hold, and what the last run has done."""
POINTERS = f"{OURS}/pointers/"
SCRUB_SHARDS = f"{OURS}/scrub/shards"
"""When the blobs of each first byte were read last, and what could not be read."""
SCRUB_CURSOR = f"{OURS}/scrub/cursor"
"""How far the shard is that is being read."""
USAGE = f"{OURS}/usage/"
USAGE_REPORT = f"{USAGE}_report"
"""What every repository held when the whole store was last counted."""
COLLECTION = f"{OURS}/gc/"
COLLECTION_RUN = f"{COLLECTION}run"
"""There, while a garbage collection is under way."""
COLLECTION_LAST = f"{COLLECTION}last"
UNLINKED = f"{COLLECTION}unlinked"
"""Since when bytes are there that no link leads to."""
FRESH = f"{COLLECTION}fresh/"
DELETING = f"{COLLECTION}deleting/"
COLLECTED = f"{COLLECTION}log/"
REPOSITORIES = f"{ROOT}/repositories/"
BLOBS = f"{ROOT}/blobs/"

PRIVATE = (SIGNING_KEYS, ROBOTS, REFRESH)
"""Below these lie secrets, or what secrets are compared with: nobody else on the machine has to read it."""

GONE = "gone"
"""Stands for a digest in the record of a tag that was deleted."""

TIME_DIGITS = 16
"""Microseconds since the epoch take no more until the year 2286."""

CATALOG_END = "!"
"""Closes a name in the catalog. It sorts before every character of a name, so keys sort as the names do."""


def _repository(name: str) -> str:
    return f"{REPOSITORIES}{name}"


def _ours(name: str) -> str:
    return f"{OUR_REPOSITORIES}{name}"


def blob(digest: Digest) -> str:
    """The bytes of a blob or manifest, always under their sha256 digest."""
    return f"{BLOBS}{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def pointer(key: str) -> str:
    """Where the bytes are of an object that has not been moved to its key yet."""
    return f"{POINTERS}{key}"


def repository_records(name: str) -> tuple[str, ...]:
    """What is known of a repository's past: nothing relies on it."""
    return (histories(name), pulls(name))


def layers(name: str) -> str:
    """All blobs that a repository may read."""
    return f"{_repository(name)}/_layers/"


def layer_link(name: str, digest: Digest) -> str:
    """This repository may read that blob."""
    return f"{layers(name)}{digest.algorithm}/{digest.hex}/link"


def manifests(name: str) -> str:
    """All manifests and tags of a repository."""
    return f"{_repository(name)}/_manifests/"


def revisions(name: str) -> str:
    """All manifests of a repository."""
    return f"{manifests(name)}revisions/"


def revision_link(name: str, digest: Digest) -> str:
    """This repository holds that manifest."""
    return f"{revisions(name)}{digest.algorithm}/{digest.hex}/link"


def tags(name: str) -> str:
    """All tags of a repository, one folder each."""
    return f"{manifests(name)}tags/"


def tag(name: str, tag: str) -> str:
    """Everything of a tag; no object lies here itself."""
    return f"{tags(name)}{tag}"


def tag_link(name: str, tag: str) -> str:
    """What a tag points at: the one authority."""
    return f"{tags(name)}{tag}/current/link"


def tag_index(name: str, tag: str) -> str:
    """Everything that a tag has pointed at."""
    return f"{tags(name)}{tag}/index/"


def tag_index_link(name: str, tag: str, digest: Digest) -> str:
    """A tag has pointed at that manifest."""
    return f"{tag_index(name, tag)}{digest.algorithm}/{digest.hex}/link"


def uploads(name: str) -> str:
    """All upload sessions of a repository that distribution knows."""
    return f"{_repository(name)}/_uploads/"


def upload(name: str, upload: str) -> str:
    """Everything of an upload session that distribution knows; no object lies here itself."""
    return f"{_repository(name)}/_uploads/{upload}"


def upload_bytes(name: str, upload: str) -> str:
    """The staged bytes of an upload session."""
    return f"{_repository(name)}/_uploads/{upload}/data"


def upload_started(name: str, upload: str) -> str:
    """When the session began: distribution purges by it what was abandoned."""
    return f"{_repository(name)}/_uploads/{upload}/startedat"


def upload_record(upload: str) -> str:
    """What a session knows of itself."""
    return f"{UPLOADS}{upload}"


def catalog_entry(name: str) -> str:
    """This repository exists."""
    return f"{CATALOG}{name}{CATALOG_END}"


def histories(name: str) -> str:
    """What all tags of a repository have pointed at."""
    return f"{_ours(name)}/_history/"


def history(name: str, tag: str) -> str:
    """Everything that is known of what a tag has pointed at."""
    return f"{histories(name)}{tag}/"


def history_record(name: str, tag: str, *, time: int, new: Digest | None, record: str) -> str:
    """One change of a tag at a time, in microseconds since the epoch. Keys sort as the times do."""
    change = GONE if new is None else f"{new.algorithm}-{new.hex}"
    return f"{history(name, tag)}{time:0{TIME_DIGITS}}.{change}.{record}"


def media_types(name: str) -> str:
    """All media types of a repository that are stored beside manifests."""
    return f"{_ours(name)}/_types/"


def media_type(name: str, digest: Digest) -> str:
    """The media type of a manifest whose bytes do not tell it."""
    return f"{media_types(name)}{digest.algorithm}/{digest.hex}"


def blobs_of_shard(shard: str) -> str:
    """All blobs whose sha256 digests begin with two hexadecimal digits."""
    return f"{BLOBS}sha256/{shard}/"


def pointers_of_shard(shard: str) -> str:
    """All pointers to blobs whose sha256 digests begin with two hexadecimal digits."""
    return pointer(blobs_of_shard(shard))


def damaged_of_shard(shard: str) -> str:
    """All markers of blobs whose sha256 digests begin with two hexadecimal digits."""
    return f"{DAMAGED}sha256/{shard}/"


def damaged(canonical: Digest) -> str:
    """Size and time of a stored copy that was found not to hash to its digest."""
    return f"{DAMAGED}{canonical.algorithm}/{canonical.hex[:2]}/{canonical.hex}"


def blob_source(digest: Digest) -> str:
    """A repository that has linked to the blob: where a mount without a source looks first."""
    return f"{SOURCES}{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def signing_key(slot: str) -> str:
    """A key that tokens are signed with; the slot is named after the key before it: see storage/signing_keys.py."""
    return f"{SIGNING_KEYS}{slot}"


def removals(name: str) -> str:
    """What may be taken from a repository, or was lately; of the repositories inside it as well."""
    return f"{REMOVALS}{name}/"


def blob_removals(name: str, digest: Digest) -> str:
    """Announcements that a blob may be taken from a repository."""
    return f"{removals(name)}_layers/{digest.algorithm}/{digest.hex}/"


def manifest_removals(name: str, digest: Digest) -> str:
    """Announcements that a manifest may be taken from a repository."""
    return f"{removals(name)}_revisions/{digest.algorithm}/{digest.hex}/"


def tags_removals(name: str) -> str:
    """Announcements that tags may be deleted."""
    return f"{removals(name)}_tags/"


def tag_removals(name: str, tag: str) -> str:
    """Announcements that a tag may be deleted."""
    return f"{tags_removals(name)}{tag}/"


def entry_removals(name: str) -> str:
    """Announcements that a repository may be taken from the catalog."""
    return f"{removals(name)}_catalog/"


def repository_removals(name: str) -> str:
    """Announcements that anything may be taken from a repository."""
    return f"{removals(name)}_repository/"


def pulls(name: str) -> str:
    """When tags and manifests of a repository were pulled."""
    return f"{_ours(name)}/_pulls/"


def pulls_record(name: str, record: str) -> str:
    """What one process has counted for a while."""
    return f"{pulls(name)}{record}"


def collection_removals(name: str) -> str:
    """Announcements that a garbage collection may take any blob or manifest from a repository."""
    return f"{removals(name)}_collection/"


def retry_removals(name: str) -> str:
    """Announcements of pushes that put right what a garbage collection has taken from under them."""
    return f"{removals(name)}_again/"


def fresh(run: str, kind: str, canonical: Digest) -> str:
    """A blob or manifest that somebody has come to rely on while a garbage collection is under way."""
    return f"{FRESH}{run}/{kind}/{canonical.algorithm}-{canonical.hex}"


def deleting(low: str, high: str, name: str) -> str:
    """Announcement that bytes may be deleted: of all digests from `low` to `high`, in hexadecimal digits."""
    return f"{DELETING}{low}-{high}-{name}"


def collected(name: str) -> str:
    """What a garbage collection has taken, a batch of it."""
    return f"{COLLECTED}{name}"


def lease(name: str) -> str:
    """Who does a piece of background work now."""
    return f"{LEASES}{name}"


def subjects(name: str) -> str:
    """Everything in a repository that refers to any subject."""
    return f"{_ours(name)}/_referrers/"


def usage(prefix: str) -> str:
    """What the repositories at and below a prefix hold; of the prefixes inside it as well."""
    return f"{USAGE}{prefix}/"


def usage_head(prefix: str) -> str:
    """How many bytes they held when they were last counted, and which list has those blobs."""
    return f"{usage(prefix)}_head"


def usage_counted(prefix: str, counted: str) -> str:
    """The list of the blobs that were counted."""
    return f"{usage(prefix)}_counted/{counted}"


def usage_additions(prefix: str) -> str:
    """Everything that was linked to since."""
    return f"{usage(prefix)}_added/"


def referrers(name: str, subject: Digest) -> str:
    """Everything that refers to a subject."""
    return f"{subjects(name)}{subject.algorithm}/{subject.hex}/"


def referrer(name: str, subject: Digest, digest: Digest) -> str:
    """One manifest that refers to a subject."""
    return f"{referrers(name, subject)}{digest.algorithm}-{digest.hex}"


def robot_tokens(name: str) -> str:
    """All tokens of a robot."""
    return f"{ROBOTS}{name}/"


def robot_token(name: str, token: str) -> str:
    """One token of a robot: its hash and what it allows, never the token."""
    return f"{robot_tokens(name)}{token}"


def refresh_tokens(owner: str) -> str:
    """All refresh tokens of those users whose names hash to `owner`."""
    return f"{REFRESH}{owner}/"


def refresh_token(owner: str, token: str) -> str:
    """One refresh token: its hash and whose it is, never the token."""
    return f"{refresh_tokens(owner)}{token}"


def audit_head(trail: str = "head") -> str:
    """How far an audit trail has come: each file of lines has a head of its own."""
    return f"{AUDIT}{trail}"


def audited_file(path_hash: str) -> str:
    """What a file of the configuration held when that was last written to the audit trail."""
    return f"{AUDIT}files/{path_hash}"
