"""No, in OCI terms: the error codes of the distribution spec with the status that each is sent with.

Messages are one line, hold no secret, and say what to do: clients print them as they are.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

Detail = Mapping[str, object] | str | None


class RegistryError(Exception):
    """A refusal (distribution-spec, "Error Codes"). `headers` go out with the answer."""

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, detail: Detail = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.headers = headers

    @property
    def lines(self) -> list[tuple[str, Detail]]:
        """Message and detail of each error in the envelope."""
        return [(self.message, self.detail)]


class BlobUnknown(RegistryError):
    """The repository holds no such blob."""

    code, status = "BLOB_UNKNOWN", 404


class UploadInvalid(RegistryError):
    """The session's request cannot be carried out as it stands."""

    code, status = "BLOB_UPLOAD_INVALID", 400


class RangeInvalid(UploadInvalid):
    """The bytes do not begin where the session ends, or it has another writer (416)."""

    status = 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class UploadUnknown(RegistryError):
    """There is no such upload session."""

    code, status = "BLOB_UPLOAD_UNKNOWN", 404


class DigestInvalid(RegistryError):
    """A digest is malformed or unsupported, or the content does not hash to it."""

    code, status = "DIGEST_INVALID", 400


class ManifestBlobUnknown(RegistryError):
    """The manifest refers to what the repository does not hold: one error for each missing digest."""

    code, status = "MANIFEST_BLOB_UNKNOWN", 404

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__("the manifest refers to content that is not in this repository: push it first")
        self.missing = missing

    @property
    def lines(self) -> list[tuple[str, Detail]]:
        """One line for each missing digest."""
        return [(f"not in this repository, push it first: {d}", {"digest": d}) for d in self.missing]


class ManifestInvalid(RegistryError):
    """The manifest cannot be parsed or is of a kind that is not taken."""

    code, status = "MANIFEST_INVALID", 400


class ManifestUnknown(RegistryError):
    """The repository holds no such manifest or tag."""

    code, status = "MANIFEST_UNKNOWN", 404


class NameInvalid(RegistryError):
    """The repository's name breaks the grammar."""

    code, status = "NAME_INVALID", 400


class NameUnknown(RegistryError):
    """There is no such repository."""

    code, status = "NAME_UNKNOWN", 404


class SizeInvalid(RegistryError):
    """The length that was announced is not the length that came."""

    code, status = "SIZE_INVALID", 400


class TooLarge(SizeInvalid):
    """The content is larger than this registry takes (413)."""

    status = 413


class RangeUnsatisfiable(SizeInvalid):
    """None of the byte ranges asked for lies inside the content (416, RFC 9110 section 15.5.17)."""

    status = 416


class Unauthorized(RegistryError):
    """Nobody knows who is asking, or the token does not reach that far (401).

    `reason` is `invalid_token` or `insufficient_scope` (RFC 6750 section 3.1), empty if no credentials were sent.
    """

    code, status = "UNAUTHORIZED", 401

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Denied(RegistryError):
    """A policy forbids it, and no other credentials would help."""

    code, status = "DENIED", 403


class QuotaExceeded(Denied):
    """What is pushed does not fit into the quota of its prefix: the message says what would help."""


class Unsupported(RegistryError):
    """The operation is switched off or not known here."""

    code, status = "UNSUPPORTED", 405


class BadRequest(Unsupported):
    """The request is malformed in a way that no other code names (400)."""

    status = 400


class NotThere(Unsupported):
    """There is nothing at that path (404)."""

    status = 404


class PreconditionFailed(Denied):
    """A condition that the client set does not hold (412, RFC 9110 section 13)."""

    status = 412


class TooManyTags(Unsupported):
    """More `tag` parameters than are taken at once (414, distribution-spec end-7b)."""

    status = 414


class TooManyRequests(RegistryError):
    """Come back later (429)."""

    code, status = "TOOMANYREQUESTS", 429


class Unavailable(RegistryError):
    """The store fails or refuses for now (503)."""

    code, status = "UNAVAILABLE", 503


class InsufficientStorage(Unavailable):
    """The store is full (507, RFC 4918 section 11.5)."""

    status = 507
