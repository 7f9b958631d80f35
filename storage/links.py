"""Links: small objects whose whole text is a digest."""

import structlog

from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused, VersionMismatch

LINK_BYTES_MAX = 256

log = structlog.get_logger(__name__)


async def read_link(driver: Driver, key: str) -> Digest:
    """Read the digest that a link holds.

    Raises NotFound; or Corrupt, after logging the key, if the link holds anything else or can't be read: an
    empty link is what a crash of older registries leaves behind, and the next push of the object mends it.
    """
    digest, _version = await read_link_version(driver, key)
    return digest


async def read_link_version(driver: Driver, key: str) -> tuple[Digest, str]:
    """Read a link and the version to compare and swap it by. Raises as read_link does."""
    try:
        found = await driver.get(key, bytes_max=LINK_BYTES_MAX)
        return Digest.parse(found.body.decode("ascii").strip()), found.version
    except (ValueError, Corrupt, StorageRefused) as error:
        log.error("damaged link", key=key, reason=str(error), remedy="push the object again")
        raise Corrupt("the link is damaged or unreadable", key=key) from error


async def delete_link(driver: Driver, key: str) -> None:
    """Delete a link, a damaged one as well. Raises NotFound: of several who delete it at once, one does."""
    try:
        _digest, version = await read_link_version(driver, key)
        await driver.delete_version(key, version=version)
    except Corrupt:
        await driver.delete(key)
    except VersionMismatch as error:
        raise NotFound("the link was deleted meanwhile", key=key) from error


async def mend_link(driver: Driver, key: str, digest: Digest) -> bool:
    """Write a damaged link again; tells whether it was damaged still. One that was deleted meanwhile stays so."""
    try:
        found = await driver.get(key, bytes_max=LINK_BYTES_MAX)
    except (Corrupt, StorageRefused):
        await driver.put(key, link_text(digest))
        return True
    except NotFound:
        return False
    if found.body.strip() == link_text(digest):
        return False
    try:
        await driver.replace(key, link_text(digest), version=found.version)
    except VersionMismatch:
        return False
    return True


def link_text(digest: Digest) -> bytes:
    """The text of a link, as distribution writes it: no newline."""
    return str(digest).encode("ascii")
