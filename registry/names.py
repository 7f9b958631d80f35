"""Names from the wire: of repositories, tags, references and upload sessions. What is parsed here is safe inside.

The grammars are those of distribution-spec, "Pulling manifests"; nothing is normalised, since two spellings
would be two names for one thing.
"""

import re
from typing import NewType

from registry.errors import DigestInvalid, ManifestInvalid, NameInvalid
from storage.digest import Digest

RepositoryName = NewType("RepositoryName", str)
"""Text that was parsed as a repository's name: it can stand in a key, a header or a URL as it is."""

Tag = NewType("Tag", str)
"""Text that was parsed as a tag."""

Reference = Tag | Digest

NAME_BYTES_MAX = 255
NAME_COMPONENTS_MAX = 32
COMPONENT_BYTES_MAX = 128
TAG_BYTES_MAX = 128

# Possessive quantifiers: nothing is ever matched a second way, so no name makes it slow.
_COMPONENT = r"[a-z0-9]++(?:(?:\.|__?+|-++)[a-z0-9]++)*+"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_UPLOAD = re.compile(r"[A-Za-z0-9_-]{1,64}")


def parse_name(text: str) -> RepositoryName:
    """Read a repository's name. Raises NameInvalid."""
    if len(text) > NAME_BYTES_MAX:
        raise NameInvalid(f"a repository name has at most {NAME_BYTES_MAX} characters")
    if not _NAME.fullmatch(text):
        raise NameInvalid(
            "a repository name is lower-case letters and digits, separated by one . or _, two _, or any number of -, "
            "in components joined by /"
        )
    components = text.split("/")
    if len(components) > NAME_COMPONENTS_MAX or max(map(len, components)) > COMPONENT_BYTES_MAX:
        raise NameInvalid(
            f"a repository name has at most {NAME_COMPONENTS_MAX} components "
            f"of at most {COMPONENT_BYTES_MAX} characters"
        )
    return RepositoryName(text)


def is_tag(text: str) -> bool:
    """Tell whether text follows the grammar of tags."""
    return _TAG.fullmatch(text) is not None


def parse_tag(text: str) -> Tag:
    """Read a tag. Raises ManifestInvalid."""
    if not is_tag(text):
        raise ManifestInvalid(
            "a tag has at most 128 letters, digits, _, . and -, and does not begin with . or -: choose another name"
        )
    return Tag(text)


def parse_digest(text: str) -> Digest:
    """Read a digest. Raises DigestInvalid."""
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise DigestInvalid(str(error)) from None


def parse_reference(text: str) -> Reference:
    """Read a digest (whatever has a colon) or a tag. Raises DigestInvalid or ManifestInvalid."""
    return parse_digest(text) if ":" in text else parse_tag(text)


def is_upload(text: str) -> bool:
    """Tell whether text can be the id of an upload session."""
    return _UPLOAD.fullmatch(text) is not None
