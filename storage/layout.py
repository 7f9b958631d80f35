"""The layout's version: written at first start, and refused when it is not one that we know."""

from storage import keys
from storage.drivers import Driver
from storage.errors import AlreadyExists, LayoutUnknown, NotFound

LAYOUT = b"pierhead layout 1\n"


async def check_layout(driver: Driver) -> None:
    """Write the version into a store that has none; raises LayoutUnknown for any other than ours."""
    try:
        found = (await driver.get(keys.LAYOUT, bytes_max=256)).body
    except NotFound:
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
