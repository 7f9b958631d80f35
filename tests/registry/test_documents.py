"""Manifests are read as all clients read them, and refused where clients would differ."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.documents import DESCRIPTORS_MAX, Document, parse_manifest, read_manifest, told_type
from registry.media_types import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    DOCKER_SCHEMA_1,
    DOCKER_SCHEMA_1_SIGNED,
    FOREIGN_LAYERS,
    IMAGE,
    INDEX,
)
from storage.digest import SHA512, Digest
from tests.registry.images import CONFIG, CONFIG_TYPE, LAYER, descriptor, encode, image, index

OPAQUE = "application/vnd.example.manifest+json"


def parsed(document: dict[str, object], media_type: str | None = None) -> Document:
    return parse_manifest(encode(document), media_type)


def test_an_image_refers_to_its_config_and_layers() -> None:
    found = parsed(image(LAYER, b"another"), IMAGE)

    assert [reference.digest for reference in found.references] == [Digest.of(b) for b in (CONFIG, LAYER, b"another")]
    assert [reference.size for reference in found.references] == [2, 7, 7]
    assert (found.media_type, found.told_type, found.is_named) == (IMAGE, IMAGE, True)
    assert found.subject is None
    assert not any(reference.is_manifest or reference.is_foreign for reference in found.references)


def test_an_index_refers_to_its_manifests() -> None:
    child = encode(image())
    found = parsed(index(child), INDEX)

    assert [(reference.digest, reference.is_manifest) for reference in found.references] == [(Digest.of(child), True)]
    assert (found.media_type, found.artifact_type) == (INDEX, None)


@pytest.mark.parametrize("document", [image(layers=[]), index()], ids=["image without layers", "empty index"])
def test_lists_may_be_empty(document: dict[str, object]) -> None:
    assert len(parsed(document).references) <= 1


@pytest.mark.parametrize("media_type", [IMAGE, DOCKER_IMAGE])
def test_the_type_is_that_of_the_request_if_the_bytes_do_not_name_one(media_type: str) -> None:
    found = parsed(image(media_type=None), media_type)

    assert (found.media_type, found.told_type, found.is_named) == (media_type, IMAGE, False)


def test_an_empty_type_in_the_bytes_is_none() -> None:
    found = parsed(image(media_type=""), DOCKER_IMAGE)

    assert (found.media_type, found.told_type, found.is_named) == (DOCKER_IMAGE, IMAGE, False)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(), IMAGE),
        (image(media_type=DOCKER_IMAGE), DOCKER_IMAGE),
        (image(media_type=None), IMAGE),
        (index(), INDEX),
        (index(media_type=DOCKER_LIST), DOCKER_LIST),
        (index(media_type=None), INDEX),
    ],
)
def test_the_type_is_told_by_the_bytes_if_the_request_does_not_say(
    document: dict[str, object], media_type: str
) -> None:
    assert parsed(document).media_type == media_type


@pytest.mark.parametrize(
    ("told", "said"), [(IMAGE, DOCKER_IMAGE), (IMAGE, INDEX), (DOCKER_IMAGE, IMAGE), (INDEX, IMAGE)]
)
def test_two_types_for_one_manifest_are_refused(told: str, said: str) -> None:
    with pytest.raises(ValueError, match="Content-Type and the manifest's mediaType differ"):
        parsed(image(media_type=told), said)


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(ValueError, match="differ") as raised:
        parsed(image(media_type="x\r\n\x1b[31mevil"), IMAGE)

    assert "evil" not in str(raised.value)


@pytest.mark.parametrize("media_type", [DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED])
def test_schema_1_is_refused_with_a_clear_message(media_type: str) -> None:
    with pytest.raises(ValueError, match="schema 1"):
        parse_manifest(b'{"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": []}', media_type)
    with pytest.raises(ValueError, match="schema 1"):
        parse_manifest(b'{"schemaVersion": 1, "fsLayers": [], "signatures": []}', None)


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", OPAQUE, CONFIG_TYPE])
def test_an_unknown_type_is_refused_with_the_option_that_allows_it(media_type: str) -> None:
    with pytest.raises(ValueError, match="manifest_types"):
        parsed(image(media_type=None), media_type)
    with pytest.raises(ValueError, match="manifest_types"):
        parsed(image(media_type=media_type))
    with pytest.raises(ValueError, match="manifest_types"):
        parse_manifest(b"{}", None)


def test_an_allowed_type_is_taken_without_a_look_at_its_shape() -> None:
    found = parse_manifest(b'{"config": 5, "manifests": 7}', OPAQUE, opaque_types=[OPAQUE])

    assert (found.media_type, found.told_type, found.is_named) == (OPAQUE, None, False)
    assert not found.references


def test_an_allowed_type_is_still_one_type_and_json() -> None:
    for body in (b'{"mediaType": "application/other"}', b"no json", b'{"a": 1, "a": 2}'):
        with pytest.raises(ValueError, match=r".+"):
            parse_manifest(body, OPAQUE, opaque_types=[OPAQUE])


@pytest.mark.parametrize("version", [1, 3, "2", 2.0, True, None, [2]])
@pytest.mark.parametrize("make", [image, index])
def test_the_schema_version_is_the_number_2(make: Callable[..., dict[str, object]], version: object) -> None:
    with pytest.raises(ValueError, match="schemaVersion has to be 2"):
        parsed(make() | {"schemaVersion": version})


@pytest.mark.parametrize(
    "document",
    [
        image(manifests=[]),
        image(fsLayers=[]),
        index(config=descriptor(CONFIG)),
        index(layers=[]),
        index(fsLayers=[]),
        {**image(), "mediaType": INDEX},
        {**index(), "mediaType": IMAGE},
        image(media_type=None, manifests=[]),
    ],
)
def test_a_document_that_is_an_image_and_an_index_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"has neither|has to be a"):
        parsed(document)


@pytest.mark.parametrize(
    ("make", "missing"), [(image, "config"), (image, "layers"), (image, "schemaVersion"), (index, "manifests")]
)
def test_no_part_may_be_missing(make: Callable[..., dict[str, object]], missing: str) -> None:
    document = make()
    del document[missing]

    with pytest.raises(ValueError, match=missing):
        parsed(document)


@pytest.mark.parametrize("value", [None, 1, "text", {}, [1], [[]], [None], ["text"]])
@pytest.mark.parametrize(("make", "key"), [(image, "layers"), (index, "manifests"), (image, "config")])
def test_no_part_may_have_another_shape(make: Callable[..., dict[str, object]], key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        parsed(make() | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", -1),
        ("size", 1 << 63),
        ("size", 1.0),
        ("size", "1"),
        ("size", True),
        ("size", None),
        ("digest", None),
        ("digest", 5),
        ("digest", ""),
        ("digest", "sha256:abc"),
        ("digest", f"sha256:{'A' * 64}"),
        ("digest", f"sha384:{'a' * 96}"),
        ("mediaType", None),
        ("mediaType", 5),
        ("mediaType", "x" * 256),
        ("annotations", []),
        ("annotations", {"a": 1}),
    ],
)
@pytest.mark.parametrize("place", ["config", "layers[0]", "layers[1]", "subject", "manifests[0]"])
def test_every_descriptor_has_a_digest_a_size_and_a_type(place: str, key: str, value: object) -> None:
    wrong = {**descriptor(LAYER), key: value}
    documents = {
        "config": image(config=CONFIG) | {"config": wrong},
        "layers[0]": image(layers=[wrong]),
        "layers[1]": image(layers=[descriptor(LAYER), wrong]),
        "subject": image(subject=wrong),
        "manifests[0]": index() | {"manifests": [wrong]},
    }

    with pytest.raises(ValueError, match=r"annotations|" + place.replace("[", r"\[")):
        parsed(documents[place])


def test_a_descriptor_reaches_its_limits() -> None:
    layer = {**descriptor(LAYER), "size": (1 << 63) - 1, "mediaType": "x" * 255}

    assert parsed(image(layers=[layer])).references[1].size == (1 << 63) - 1
    assert len(parsed(image(layers=[descriptor(LAYER)] * DESCRIPTORS_MAX)).references) == DESCRIPTORS_MAX + 1
    with pytest.raises(ValueError, match=str(DESCRIPTORS_MAX)):
        parsed(image(layers=[descriptor(LAYER)] * (DESCRIPTORS_MAX + 1)))


@pytest.mark.parametrize(
    "document",
    [
        {**image(), "Layers": []},
        {**image(), "MEDIATYPE": INDEX},
        {**image(), "mediatype": IMAGE},
        {**image(), "Config": {}},
        {**image(), "\N{LATIN SMALL LETTER LONG S}ubject": {}},
        {**index(), "Manifests": []},
        image(layers=[{**descriptor(LAYER), "Digest": "x"}]),
        image(layers=[{**descriptor(LAYER), "SIZE": 1}]),
        image(subject={**descriptor(LAYER), "mediaTYPE": "x"}),
        index() | {"manifests": [{**descriptor(LAYER), "platform": {"os": "linux", "OS": "windows"}}]},
    ],
)
def test_a_key_that_go_would_take_for_another_one_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="spelled like"):
        parsed(document)


@pytest.mark.parametrize(
    "fields",
    [
        {"org.example.custom": {"nested": [1, 2.5, None]}},
        {"annotations": {"Layers": "x", "a": "b"}},
        {"annotations": None, "subject": None, "artifactType": None},
        {"platform": {"os": "linux"}, "urls": []},
        {"artifactType": "application/vnd.example+type"},
    ],
)
@pytest.mark.parametrize("make", [image, index])
def test_what_a_registry_does_not_know_is_none_of_its_business(
    make: Callable[..., dict[str, object]], fields: dict[str, object]
) -> None:
    assert parsed({**make(), **fields}).media_type in (IMAGE, INDEX)


def test_unknown_types_and_fields_of_descriptors_are_taken() -> None:
    layer = {**descriptor(LAYER, "application/x"), "data": "!no base64!", "org.example": 1, "urls": ["file:///etc"]}

    assert parsed(image(layers=[layer])).references[1].media_type == "application/x"


@pytest.mark.parametrize("media_type", sorted(FOREIGN_LAYERS))
def test_a_foreign_layer_is_known_by_its_type(media_type: str) -> None:
    assert parsed(image(layers=[descriptor(LAYER, media_type)])).references[1].is_foreign


@pytest.mark.parametrize("make", [image, index])
def test_the_subject_is_read_and_is_no_reference(make: Callable[..., dict[str, object]]) -> None:
    subject = descriptor(b"subject", IMAGE, algorithm=SHA512)

    found = parsed(make(subject=subject))

    assert found.subject is not None
    assert found.subject.digest == Digest.of(b"subject", SHA512)
    assert found.subject.digest not in {reference.digest for reference in found.references}


@pytest.mark.parametrize(
    ("document", "artifact_type"),
    [
        (image(), CONFIG_TYPE),
        (image(artifactType=""), CONFIG_TYPE),
        (image(artifactType="application/a"), "application/a"),
        (index(), None),
        (index(artifactType=""), None),
        (index(artifactType="application/a"), "application/a"),
    ],
)
def test_the_artifact_type_is_named_or_for_images_that_of_the_config(
    document: dict[str, object], artifact_type: str | None
) -> None:
    assert parsed(document).artifact_type == artifact_type


@pytest.mark.parametrize("value", [5, [], {}, "x" * 256])
@pytest.mark.parametrize("key", ["artifactType", "mediaType"])
def test_a_type_is_a_short_text(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        parsed({**image(), key: value}, None)


@pytest.mark.parametrize("value", [[], 5, "text", {"a": 1}, {"a": None}, {"a": {}}])
def test_annotations_are_texts(value: object) -> None:
    with pytest.raises(ValueError, match="annotations"):
        parsed(image(annotations=value))


def test_annotations_are_kept_to_the_letter() -> None:
    annotations = {"": "", "\u00fc": "<script>\u2028 \U0001f600", "org.example/a": "\n"}

    assert parsed(image(annotations=annotations)).annotations == annotations


KNOWN = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType"]
scalars = st.sampled_from([2, 1, IMAGE, INDEX, DOCKER_LIST, "", None, True, -1, 1.5, "sha256:" + "0" * 64])
descriptors = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("mediaType", "digest", "size", "annotations", "Size"), scalars)
)
parts = scalars | descriptors | st.lists(scalars | descriptors, max_size=3)
documents = st.dictionaries(st.sampled_from([*KNOWN, "fsLayers", "Layers"]), parts, max_size=9)


@given(documents, st.sampled_from([None, IMAGE, INDEX, DOCKER_IMAGE, DOCKER_SCHEMA_1, OPAQUE, ""]))
def test_any_object_is_one_of_four_types_or_a_value_error(document: dict[str, object], media_type: str | None) -> None:
    body = json.dumps(document).encode()
    try:
        found = parse_manifest(body, media_type)
    except ValueError:
        return
    assert found.media_type in (IMAGE, INDEX, DOCKER_IMAGE, DOCKER_LIST)
    assert "manifests" not in document or "layers" not in document


@given(documents)
def test_reading_a_stored_object_never_raises_anything_but_a_value_error(document: dict[str, object]) -> None:
    told_type(document)
    try:
        read_manifest(json.dumps(document).encode())
    except ValueError:
        return


@pytest.mark.parametrize("document", [image(), index(encode(image())), image(media_type=None)])
def test_a_stored_manifest_is_read_for_what_it_refers_to(document: dict[str, object]) -> None:
    assert read_manifest(encode(document)).references == parsed(document).references


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mediaType": "application/a", "schemaVersion": 1}, "application/a"),
        ({"mediaType": "", "schemaVersion": 2, "layers": []}, IMAGE),
        ({"mediaType": 5, "schemaVersion": 2, "config": {}}, IMAGE),
        ({"schemaVersion": 2, "manifests": []}, INDEX),
        ({"schemaVersion": 2}, None),
        ({"schemaVersion": 1}, DOCKER_SCHEMA_1),
        ({"schemaVersion": 1, "signatures": []}, DOCKER_SCHEMA_1_SIGNED),
        ({}, None),
    ],
)
def test_the_bytes_tell_a_type_by_name_else_by_shape(fields: dict[str, object], told: str | None) -> None:
    assert told_type(fields) == told
