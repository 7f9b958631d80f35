"""Keys that are found in a listing are read as what they were written for."""

import pytest

from storage import keys
from storage.digest import Digest
from storage.places import Kind, Place, is_object, read_key

NAME = "team/app-1/x"
DIGEST = Digest.of(b"one")
OTHER = Digest.of(b"two", "sha512")

PLACES = [
    Place(keys.blob(DIGEST), Kind.BLOB, digest=DIGEST),
    Place(keys.layer_link(NAME, OTHER), Kind.LAYER, NAME, digest=OTHER),
    Place(keys.revision_link(NAME, DIGEST), Kind.REVISION, NAME, digest=DIGEST),
    Place(keys.tag_link(NAME, "_1.0"), Kind.TAG, NAME, "_1.0"),
    Place(keys.tag_index_link(NAME, "1.0", OTHER), Kind.TAG_INDEX, NAME, "1.0", OTHER),
    Place(keys.upload_bytes(NAME, "a1"), Kind.UPLOAD_BYTES, NAME, "a1"),
    Place(keys.upload_started(NAME, "a1"), Kind.UPLOAD_STARTED, NAME, "a1"),
    Place(keys.upload_record("a1"), Kind.UPLOAD_RECORD, name="a1"),
    Place(keys.catalog_entry(NAME), Kind.CATALOG, NAME),
    Place(keys.media_type(NAME, DIGEST), Kind.MEDIA_TYPE, NAME, digest=DIGEST),
    Place(keys.referrer(NAME, OTHER, DIGEST), Kind.REFERRER, NAME, digest=DIGEST, subject=OTHER),
    Place(keys.history_record(NAME, "_1.0", time=1, new=OTHER, record="a1"), Kind.HISTORY, NAME, "_1.0", OTHER),
    Place(keys.history_record(NAME, "1.0", time=1, new=None, record="a1"), Kind.HISTORY, NAME, "1.0"),
    Place(keys.pulls_record(NAME, "a1"), Kind.PULLS, NAME),
    Place(keys.RETENTION, Kind.RETENTION),
    Place(f"{keys.repository_removals(NAME)}a1", Kind.REMOVAL, NAME),
    Place(keys.damaged(DIGEST), Kind.DAMAGED, digest=DIGEST),
    Place(keys.blob_source(OTHER), Kind.SOURCE, digest=OTHER),
    Place(keys.pointer(keys.blob(DIGEST)), Kind.POINTER, digest=DIGEST),
    Place(f"{keys.blob_removals(NAME, OTHER)}a1", Kind.REMOVAL, NAME, "a1", OTHER),
    Place(f"{keys.manifest_removals(NAME, DIGEST)}a1", Kind.REMOVAL, NAME, "a1", DIGEST),
    Place(f"{keys.tag_removals(NAME, '_1.0')}a1", Kind.REMOVAL, NAME, "_1.0"),
    Place(f"{keys.entry_removals(NAME)}a1", Kind.REMOVAL, NAME),
    Place(keys.usage_head(NAME), Kind.USAGE_HEAD, NAME),
    Place(keys.usage_counted(NAME, "1-a"), Kind.USAGE_COUNTED, NAME, "1-a"),
    Place(f"{keys.usage_additions(NAME)}1-2-3", Kind.USAGE_ADDED, NAME, "1-2-3"),
    Place(keys.USAGE_REPORT, Kind.USAGE_REPORT),
    Place(f"{keys.collection_removals(NAME)}a1", Kind.REMOVAL, NAME),
    Place(f"{keys.retry_removals(NAME)}a1", Kind.REMOVAL, NAME),
    Place(keys.COLLECTION_RUN, Kind.COLLECTION),
    Place(keys.COLLECTION_LAST, Kind.COLLECTION),
    Place(keys.UNLINKED, Kind.COLLECTION),
    Place(keys.fresh("run", "blobs", DIGEST), Kind.FRESH, name="run", digest=DIGEST),
    Place(keys.deleting("00", "ff", "a1"), Kind.DELETING, name="00-ff-a1"),
    Place(keys.collected("1.run.1.links"), Kind.COLLECTED, name="1.run.1.links"),
    Place(keys.LAYOUT, Kind.LAYOUT),
    Place(keys.UNADOPTED, Kind.UNADOPTED),
    Place(keys.IMPORTED, Kind.IMPORTED),
    Place(keys.lease("sweep"), Kind.LEASE, name="sweep"),
    Place(keys.SCRUB_SHARDS, Kind.SCRUB, name="shards"),
    Place(keys.SCRUB_CURSOR, Kind.SCRUB, name="cursor"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.kind.name)
def test_what_a_key_was_made_of_is_read_from_it(place: Place) -> None:
    assert read_key(place.key) == place
    assert is_object(place.key)


@pytest.mark.parametrize(
    "key",
    [
        keys.blob(DIGEST).replace("/data", "/other"),
        keys.blob(DIGEST).replace(f"/{DIGEST.hex[:2]}/", "/zz/"),
        f"{keys.REPOSITORIES}_layers/sha256/{DIGEST.hex}/link",
        f"{keys.REPOSITORIES}{NAME}",
        f"{keys.REPOSITORIES}{NAME}/_layers/sha384/{DIGEST.hex}/link",
        f"{keys.REPOSITORIES}{NAME}/_manifests/tags/v1",
        f"{keys.REPOSITORIES}{NAME}/_manifests/tags/v1/current",
        f"{keys.OURS}/catalog/{NAME}",
        f"{keys.OURS}/something/else",
        f"{keys.history(NAME, 'v1')}1.gone.a1",
        f"{keys.history(NAME, 'v1')}{1:016}.sha256-x.a1",
        f"{keys.history(NAME, 'v1')}{1:016}.gone",
        keys.pointer(keys.layer_link(NAME, DIGEST)),
        f"{keys.USAGE}_head",
        f"{keys.USAGE}team/other",
        "elsewhere",
    ],
)
def test_what_has_no_place_is_stray(key: str) -> None:
    assert read_key(key) == Place(key, Kind.STRAY)
    assert not is_object(key)
