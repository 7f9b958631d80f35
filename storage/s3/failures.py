"""What the bucket says, in storage's words and with what to do about it."""

from dataclasses import dataclass

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from storage.errors import NotFound, StorageError, StorageFull, StorageRefused, StorageUnavailable

KEY_BYTES_MAX = 1024
COMPONENT_BYTES_MAX = 255
"""Stores that keep objects in directories take no longer ones."""

RETRIED_CODES = frozenset(
    {
        "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeTooSkewed", "Throttling",
        "ThrottlingException", "TooManyRequests", "BandwidthLimitExceeded", "RequestLimitExceeded",
        "ConditionalRequestConflict", "OperationAborted", "XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody",
    }
)  # fmt: skip
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_BREAKS = (
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    ResponseParserError,
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
)

_REFUSED = {
    "AccessDenied": "the credentials do not allow it: grant reading, writing, deleting, listing and multipart uploads",
    "AllAccessDisabled": "access to the bucket is disabled: ask who runs the store",
    "AccountProblem": "the account has a problem: ask who runs the store",
    "InvalidAccessKeyId": "the access key is unknown there: check the credentials",
    "SignatureDoesNotMatch": "the signature is wrong: check the secret key, and the endpoint",
    "InvalidToken": "the session token is not valid: renew the credentials",
    "ExpiredToken": "the credentials have expired: renew them",
    "ExpiredTokenException": "the credentials have expired: renew them",
    "TokenRefreshRequired": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "NoSuchBucket": "there is no such bucket: create it, or correct its name",
    "PermanentRedirect": "the bucket is in another region: set the region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set the region",
    "IllegalLocationConstraintException": "the bucket is in another region: set the region",
    "KeyTooLongError": "the name is too long for the store",
    "KMS.DisabledException": "the KMS key is disabled: enable it, or name another one",
    "KMS.NotFoundException": "there is no such KMS key: correct its name",
    "InvalidStorageClass": "the store has no such storage class: correct or remove it",
    "NotImplemented": "the store does not implement it: use another store, or remove the setting that asks for it",
}
_DENIED = frozenset(
    {
        "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken",
        "InvalidAccessKeyId", "SignatureDoesNotMatch",
    }
)  # fmt: skip
_FULL = frozenset({"QuotaExceeded", "InsufficientCapacity", "InsufficientStorage", "XMinioStorageFull"})


class Refusal(Exception):  # it is an answer
    """A call was answered with an error that a repetition does not change.

    `unsure` says that an earlier attempt at the same call broke off, and may have had its effect.
    """

    def __init__(self, code: str, status: int, *, unsure: bool) -> None:
        super().__init__(f"{code or 'no code'} (status {status})")
        self.code = code
        self.status = status
        self.unsure = unsure

    @property
    def is_absent(self) -> bool:
        """Tell whether it says that there is no such object."""
        return self.code in {"NoSuchKey", "NotFound", "404"}

    @property
    def is_mismatch(self) -> bool:
        """Tell whether it says that a condition did not hold."""
        return self.status == 412 or self.code == "PreconditionFailed"

    @property
    def is_no_upload(self) -> bool:
        """Tell whether it says that there is no such multipart upload, or not these parts of it."""
        return self.code in {"NoSuchUpload", "InvalidPart", "InvalidPartOrder"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exception of botocore says: a code and a status, how the call broke off, or why it could not be made."""

    code: str = ""
    status: int = 0
    broken: str = ""
    retry_after: float = 0.0
    unusable: StorageUnavailable | None = None

    @property
    def may_pass(self) -> bool:
        """Tell whether the same call may succeed a little later."""
        return bool(self.broken) or self.code in RETRIED_CODES or self.status in RETRIED_STATUSES

    @property
    def is_denied(self) -> bool:
        """Tell whether other credentials might help. The answer to a HEAD has no code but its status."""
        no_code = self.code == str(self.status) and self.status in {400, 401, 403}
        return self.unusable is not None or self.code in _DENIED or no_code

    @property
    def may_have_worked(self) -> bool:
        """Tell whether the call may have had its effect."""
        return bool(self.broken) or self.status >= 500


def answer_of(error: Exception) -> Answer | None:
    """Read an exception of botocore; None if it is none that a store has caused."""
    if isinstance(error, botocore_errors.ClientError):
        details = error.response.get("ResponseMetadata", {})
        wait = details.get("HTTPHeaders", {}).get("retry-after", "")
        code = str(error.response.get("Error", {}).get("Code", ""))
        seconds = float(wait) if wait.isdecimal() else 0.0
        return Answer(code, int(details.get("HTTPStatusCode", 0)), retry_after=seconds)
    if isinstance(error, _BREAKS):
        return Answer(broken=_how(error))
    return None


def unavailable(answer: Answer, key: str, *, attempts: int) -> StorageUnavailable:
    """What it means that all attempts have failed."""
    if answer.broken:
        text = f"the bucket can't be reached ({answer.broken}): check endpoint, network and store"
    elif answer.code == "RequestTimeTooSkewed":
        text = _REFUSED[answer.code]
    elif answer.code in {"SlowDown", "Throttling", "TooManyRequests"} or answer.status in {429, 503}:
        text = "the bucket asks to be called less often: raise its limits, or add prefixes"
    else:
        text = f"the bucket fails ({answer.code or answer.status}): check the store"
    return StorageUnavailable(f"{text}; {attempts} attempts", key=key)


def refused(refusal: Refusal, key: str) -> StorageError:
    """What an answer means that the caller did not expect.

    That the credentials are refused says nothing of the object: whoever took it for unreadable, as with a file of
    another owner, would tell clients that what they have pushed is not there.
    """
    if refusal.is_absent:
        return NotFound("no such object", key=key)
    if refusal.status == 400 and is_too_long(key):
        return StorageRefused(_REFUSED["KeyTooLongError"], key=key)
    if refusal.code in _FULL or refusal.status == 507:
        return StorageFull("no space or no quota left in the bucket: free some, or raise it", key=key)
    if text := _REFUSED.get(refusal.code):
        return StorageUnavailable(text, key=key)
    if refusal.status in {401, 403}:
        return StorageUnavailable("the credentials do not allow it: check them and the bucket's policy", key=key)
    if refusal.status in {301, 307, 308}:
        return StorageUnavailable("the bucket is in another region: set the region", key=key)
    return StorageUnavailable(f"the bucket refuses the call with {refusal}: check the store", key=key)


def unusable(error: Exception) -> StorageUnavailable | None:
    """What it means that a call could not even be made; None if the error is not botocore's."""
    if not isinstance(error, botocore_errors.BotoCoreError):
        return None
    kind = type(error).__name__
    if "Credential" in kind or "Token" in kind or "Profile" in kind or "SSO" in kind:
        return StorageUnavailable(f"no usable credentials ({kind}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if "Region" in kind:
        return StorageUnavailable(f"no usable region ({kind}): set AWS_REGION")
    return StorageUnavailable(f"the call can't be made ({kind}): check the configuration of the bucket")


def is_too_long(key: str) -> bool:
    """Tell whether no store, or only some, would take the key."""
    encoded = key.encode()
    return len(encoded) > KEY_BYTES_MAX or any(len(part) > COMPONENT_BYTES_MAX for part in encoded.split(b"/"))


def _how(error: Exception) -> str:
    kind = type(error).__name__
    known = {
        "EndpointConnectionError": "no connection",
        "ConnectTimeoutError": "no connection in time",
        "ReadTimeoutError": "no answer in time",
        "ConnectionClosedError": "the connection was closed",
        "SSLError": "TLS failed: check the CA bundle",
        "ProxyConnectionError": "no connection through the proxy",
        "ResponseStreamingError": "its answer was cut off",
        "IncompleteReadError": "its answer was cut off",
        "ResponseParserError": "its answer was cut off",
    }
    return known.get(kind, kind)
