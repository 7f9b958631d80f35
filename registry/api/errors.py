"""The one place where an error becomes an answer."""

import structlog

from registry.api.responses import Response, json_response
from registry.errors import InsufficientStorage, RegistryError, Unavailable
from storage.errors import StorageFull, StorageReadOnly, StorageUnavailable

RETRY_SECONDS = 5

log = structlog.get_logger(__name__)


def render(error: Exception, *, method: str, path: str, client: str) -> Response:
    """The error envelope (distribution-spec, "Error Codes"). What is our fault is logged, with whose request it hit."""
    refusal = _translate(error)
    if refusal.status >= 500:
        unexpected = error if refusal.code == "UNKNOWN" else None
        log.error(
            "request failed", status=refusal.status, method=method, path=path, client=client,
            reason=str(error) or type(error).__name__, exc_info=unexpected,
        )  # fmt: skip
    errors = []
    for message, detail in refusal.lines:
        line: dict[str, object] = {"code": refusal.code, "message": message}
        if detail is not None:
            line["detail"] = detail
        errors.append(line)
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in refusal.headers]
    return json_response({"errors": errors}, headers=headers, status=refusal.status)


def _translate(error: Exception) -> RegistryError:
    # The message of a storage error holds keys and numbers of the system: that is for the log.
    retry = [("retry-after", str(RETRY_SECONDS))]
    match error:
        case RegistryError():
            return error
        case StorageFull():
            return InsufficientStorage("the registry's disk is full: tell its operator, and push again later")
        case StorageReadOnly():
            return Unavailable("the registry's disk is read-only: tell its operator", headers=retry)
        case StorageUnavailable():
            return Unavailable("the registry's storage fails: try again, then tell its operator", headers=retry)
        case _:
            return RegistryError("an unexpected error, which the registry has logged: tell its operator")
