"""Digests and repositories as a listing tells them, with as few calls and as little reading as the store allows."""

from collections.abc import AsyncIterator

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver, Stat
from storage.errors import Corrupt, NotFound, StorageRefused

FOLDED_PAGE = 100_000

Listed = list[tuple[Digest, Stat | None]]


async def digests_below(driver: Driver, prefix: str) -> AsyncIterator[Listed]:
    """Yield, page by page, the digests below a prefix at `<algorithm>/<hex>/...`, or `<algorithm>/<2 hex>/<hex>/...`.

    Where a listing does not tell sizes, what it folds may turn out to hold nothing.
    """
    if driver.capabilities.listings_tell_sizes:
        after = ""
        while True:
            page = await driver.list(prefix, after=after, limit=driver.capabilities.page_entries)
            found = [(_digest(entry.key, prefix), entry.found) for entry in page.entries]
            yield [(digest, stat) for digest, stat in found if digest is not None]
            if not page.more:
                return
            after = page.entries[-1].key
    for algorithm in await _folders(driver, prefix):
        if prefix != keys.BLOBS:
            yield _of_folders(await _folders(driver, algorithm), prefix)
            continue
        for start in await _folders(driver, algorithm):
            yield _of_folders(await _folders(driver, start), prefix)


async def repositories(driver: Driver, prefix: str = keys.REPOSITORIES) -> AsyncIterator[str]:
    """Yield the names of all repositories, whatever is left of them, those inside of others too."""
    for folder in await _folders(driver, prefix):
        name = folder.removeprefix(keys.REPOSITORIES).removesuffix("/")
        if name.rpartition("/")[2].startswith("_"):
            continue
        try:
            below = await _folders(driver, folder)
        except StorageRefused:
            yield name  # who looks what it holds finds out
            continue
        if any(each.removeprefix(folder).startswith("_") for each in below):
            yield name
        if any(not each.removeprefix(folder).startswith("_") for each in below):
            async for inner in repositories(driver, folder):
                yield inner


async def is_there(driver: Driver, key: str) -> bool:
    """Tell whether there is an object, be it a damaged one."""
    try:
        await driver.stat(key)
    except Corrupt:
        return True
    except NotFound:
        return False
    return True


async def _folders(driver: Driver, prefix: str) -> list[str]:
    found: list[str] = []
    while True:
        page = await driver.list(prefix, after=found[-1] if found else "", limit=FOLDED_PAGE, fold=True)
        found += [entry.key for entry in page.entries if entry.is_prefix]
        if not page.more:
            return found


def _of_folders(folders: list[str], prefix: str) -> Listed:
    found = [_digest(folder, prefix) for folder in folders]
    return [(digest, None) for digest in found if digest is not None]


def _digest(key: str, prefix: str) -> Digest | None:
    algorithm, *parts = key[len(prefix) :].split("/")
    encoded = next((part for part in parts if len(part) > 2), "")
    try:
        return Digest.parse(f"{algorithm}:{encoded}")
    except ValueError:
        return None
