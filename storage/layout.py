"""The layout's version: written at first start, and refused when it is not one that we know."""

from storage import keys
from storage.drivers import Driver
from storage.errors import AlreadyExists, LayoutUnknown, NotFound
from storage.walk import is_empty

LAYOUT = b"pierhead layout 1\n"
LOOKED_AT_MAX = 1000


async def check_layout(driver: Driver) -> None:
    """Write the version into a store that has none; raises LayoutUnknown for any other than ours."""
    try:
        found = (await driver.get(keys.LAYOUT, bytes_max=256)).body
    except NotFound:
        if not await is_empty(driver, keys.REPOSITORIES):
            # Before the layout: a crash between the two must not hide that the indexes are incomplete.
            await driver.put(keys.UNADOPTED, b"")
        else:
            await driver.put(keys.IMPORTED, b"", durable=False)  # every history begins with its first push
        try:
            await driver.create(keys.LAYOUT, LAYOUT)
        except AlreadyExists:
            found = (await driver.get(keys.LAYOUT, bytes_max=256)).body
        else:
            return
    if found != LAYOUT:
        text = found.decode("utf-8", "replace").strip()
        raise LayoutUnknown(
            f"the store has layout {text!r}, this version knows {LAYOUT.decode().strip()!r}: "
            "start the version of Pierhead that wrote it, or a newer one",
            key=keys.LAYOUT,
        )


async def is_unadopted(driver: Driver) -> bool:
    """Tell, by a cheap look, whether the indexes lack what another registry has written.

    It may have written more since they were complete, which no cheap look can tell.
    """
    try:
        await driver.stat(keys.UNADOPTED)
    except NotFound:
        if not await is_empty(driver, keys.CATALOG):
            return False
        # Blobs and sessions alone are of pushes that have not come to their manifest.
        page = await driver.list(keys.REPOSITORIES, limit=LOOKED_AT_MAX)
        return any("/_manifests/" in entry.key for entry in page.entries)
    return True
