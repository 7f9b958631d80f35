"""What can happen to stored bytes, in storage's own words."""


class StorageError(Exception):
    """The root of everything `storage` raises on purpose.

    `key` names the object concerned, so that an operator can find it.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(f"{message} [{key}]" if key else message)
        self.key = key


class NotFound(StorageError):
    """There is no object under that key, or no session with that id."""


class AlreadyExists(StorageError):
    """A create found the key taken."""


class VersionMismatch(StorageError):
    """A compare-and-swap lost: the object is not the one that the caller read."""


class Busy(StorageError):
    """Another writer holds the staged object."""


class OffsetMismatch(StorageError):
    """Bytes were offered for another place than the end of what is kept.

    `offset` is the true end, in bytes.
    """

    def __init__(self, message: str, *, offset: int, key: str = "") -> None:
        super().__init__(message, key=key)
        self.offset = offset


class DigestMismatch(StorageError):
    """The bytes do not hash to the digest they were announced under."""


class Corrupt(NotFound):
    """A stored object cannot be what its key says it is, so what was asked for is not there.

    It is a NotFound because a client that is told so pushes again, and a push heals.
    """


class StorageUnavailable(StorageError):
    """The store refuses or fails for now; the same call may succeed later."""


class StorageFull(StorageUnavailable):
    """No space or no quota left where the bytes would go (ENOSPC, EDQUOT)."""


class StorageReadOnly(StorageUnavailable):
    """The store cannot be written to (EROFS)."""


class StorageRefused(StorageUnavailable):
    """The process may not do that to the store (EACCES, EPERM)."""


class LayoutUnknown(StorageError):
    """The store was written by a version whose layout this one does not know."""
