"""Listings, compared with what sorting the keys would give, from stores of both orders."""

import random
from collections.abc import Sequence

from storage.drivers import Page
from storage.s3.listing import list_from_directories, list_in_byte_order
from storage.s3.settings import S3Settings
from tests.s3.conftest import OpenDriver

ALPHABET = ["a", "b", "!", "-", ".", "0"]


class Listed:
    """A store without objects: it lists names in one of the two orders, as SeaweedFS or AWS do."""

    def __init__(self, names: Sequence[str], *, by_directory: bool) -> None:
        self.settings = S3Settings("b")
        self.calls = 0
        self._by_directory = by_directory
        self._names = sorted(names, key=self._order)

    def full(self, key: str) -> str:
        return key

    def own(self, name: str) -> str:
        return name

    async def call(self, _operation: str, _key: str, /, **given: object) -> dict[str, object]:
        self.calls += 1
        prefix, start = str(given["Prefix"]), str(given.get("ContinuationToken", given.get("StartAfter", "")))
        limit = min(int(str(given["MaxKeys"])), 7)  # short pages, to cross their ends often
        found: dict[str, bool] = {}
        more = False
        for name in self._names:
            if not name.startswith(prefix) or (start and not self._is_after(name, start)):
                continue
            rest, slash, _below = name.removeprefix(prefix).partition("/")
            folds = bool("Delimiter" in given and slash)
            entry = f"{prefix}{rest}/" if folds else name
            if entry in found or ("ContinuationToken" in given and entry == start):
                continue
            if len(found) == limit:
                more = True
                break
            found[entry] = folds
        return {
            "Contents": [{"Key": name} for name, folds in found.items() if not folds],
            "CommonPrefixes": [{"Prefix": name} for name, folds in found.items() if folds],
            "IsTruncated": more,
            "NextContinuationToken": (list(found) or [""])[-1],
        }

    def _order(self, name: str) -> list[str]:
        return name.split("/") if self._by_directory else [name]

    def _is_after(self, name: str, start: str) -> bool:
        if start.endswith("/"):
            return name.startswith(start) or self._order(name) > self._order(start)
        return self._order(name) > self._order(start)


def some_names(chance: random.Random) -> list[str]:
    names = set()
    for _ in range(chance.randint(0, 60)):
        parts = ["".join(chance.choices(ALPHABET, k=chance.randint(1, 3))) for _ in range(chance.randint(1, 4))]
        if not {".", "..", "..."} & set(parts):
            names.add("p/" + "/".join(parts))
    # No store of files holds an object and a directory of one name.
    return sorted(n for n in names if not any(other.startswith(f"{n}/") for other in names))


def expected(names: Sequence[str], after: str, *, fold: bool) -> list[str]:
    entries = {f"p/{n[2:].split('/')[0]}/" if fold and "/" in n[2:] else n for n in names}
    return sorted(entry for entry in entries if entry > after)


def some_after(names: Sequence[str], chance: random.Random) -> str:
    name = chance.choice(names) if names else "p/a"
    return chance.choice(["", name, name[:-1], name.rpartition("/")[0], name.rpartition("/")[0] + "/", name + "/x"])


async def test_every_page_is_what_sorting_gives() -> None:
    for seed in range(1500):
        chance = random.Random(seed)
        names = some_names(chance)
        fold, by_directory = chance.random() < 0.5, chance.random() < 0.7
        after, limit = some_after(names, chance), chance.randint(1, 12)
        store = Listed(names, by_directory=by_directory)
        list_page = list_from_directories if by_directory else list_in_byte_order

        page = await list_page(store, "p/", after=after, limit=limit, fold=fold)  # type: ignore[arg-type]

        wanted = expected(names, after, fold=fold)
        found = [entry.key for entry in page.entries]
        assert found == wanted[:limit], (seed, names, after, fold, by_directory)
        assert page.more == (len(wanted) > limit), (seed, names, after, fold, by_directory)


async def test_a_real_store_lists_what_sorting_gives(open_driver: OpenDriver) -> None:
    driver = await open_driver()
    chance = random.Random(5)
    names: list[str] = []
    for _ in range(6):
        names = sorted({*names, *some_names(chance)})
    names = [n for n in names if not any(other.startswith(f"{n}/") for other in names)]
    for name in names:
        await driver.put(name, b"", durable=False)

    for _ in range(150):
        fold, after, limit = chance.random() < 0.5, some_after(names, chance), chance.randint(1, 40)
        page: Page = await driver.list("p/", after=after, limit=limit, fold=fold)
        wanted = expected(names, after, fold=fold)
        assert [entry.key for entry in page.entries] == wanted[:limit], (after, fold)
        assert page.more == (len(wanted) > limit)
