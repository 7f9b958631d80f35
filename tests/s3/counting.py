"""How many calls to the bucket each request takes, here and in distribution v3, counted by one proxy in one run.

`python -m tests.s3.counting` writes the table in docs/explanation/scale.md anew.
"""

import contextlib
import os
import re
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from storage import keys
from storage.digest import Digest
from storage.links import link_text
from tests.distribution import V3, serving_distribution
from tests.registry.images import CONFIG, encode, image
from tests.running import ROOT, start
from tests.s3.faults import Proxy, proxying_in_a_thread
from tests.s3.seeding import put_all
from tests.s3.weed import BUCKET, Store, require_weed, serving_weed
from tests.tools import find_tool

PAGE = ROOT / "docs" / "explanation" / "scale.md"
BEGIN, END = "<!-- counted: begin -->\n", "<!-- counted: end -->\n"
KIND = str(image()["mediaType"])
REPOSITORY, OTHER, TAGGED = "team/app", "team/other", "team/tagged"
MANY = 10_000
ATTEMPTS = 3
"""Whatever else a server does at times (a look for damaged blobs, a sweep) is not part of what the request takes."""

SHORT = {
    "AbortMultipartUpload": "abort",
    "CompleteMultipartUpload": "complete",
    "CopyObject": "COPY",
    "CreateMultipartUpload": "create upload",
    "DeleteObject": "DELETE",
    "DeleteObjects": "DELETE of many",
    "GetObject": "GET",
    "HeadObject": "HEAD",
    "ListMultipartUploads": "list uploads",
    "ListObjectsV2": "LIST",
    "ListParts": "list parts",
    "PutObject": "PUT",
    "UploadPart": "PUT of a part",
    "UploadPartCopy": "COPY of a part",
}
CHEAP = frozenset({"GetObject", "HeadObject"})
DEAR_DOLLARS, CHEAP_DOLLARS = 0.005 / 1000, 0.0004 / 1000
"""The prices of AWS S3 Standard in us-east-1, of a write or a listing and of a read; deletions cost nothing."""

PUSHES, PULLS = 10_000, 200_000
FREE = frozenset({"AbortMultipartUpload", "DeleteObject", "DeleteObjects"})


Act = Callable[[], object]
"""Makes a request."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry behind a proxy that counts what it asks of the bucket.

    `elsewhere` is a client of another server over the same bucket, if there is one.
    """

    client: httpx.Client
    elsewhere: httpx.Client
    proxy: Proxy

    def count(self, ask: Callable[["Registry"], Act]) -> Counter[str]:
        """The calls of a request in the steady state: the fewest of a few attempts, each prepared by `ask`."""
        found = []
        for _ in range(ATTEMPTS):
            act = ask(self)
            self.proxy.taken()
            act()
            found.append(Counter(self.proxy.taken()))
        return min(found, key=Counter.total)

    def ask(self, method: str, path: str, expected: int, **given: object) -> httpx.Response:
        """Make a request that succeeds."""
        answer = self.client.request(method, path, **given)  # type: ignore[arg-type]  # httpx checks them
        assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer

    def at_the_other(self) -> "Registry":
        """The same registry, asked through another server."""
        return Registry(self.elsewhere, self.client, self.proxy)

    def push_blob(self, body: bytes, repository: str = REPOSITORY) -> Digest:
        """Push a blob as docker does: a look, a session, a stream, its end, a look."""
        digest, blobs = Digest.of(body), f"/v2/{repository}/blobs"
        self.client.head(f"{blobs}/{digest}")
        begun = self.ask("POST", f"{blobs}/uploads/", 202)
        sent = self.ask("PATCH", begun.headers["location"], 202, content=iter([body]))
        self.ask("PUT", str(httpx.URL(sent.headers["location"]).copy_add_param("digest", str(digest))), 201)
        self.look(digest, repository)
        return digest

    def look(self, digest: Digest, repository: str = REPOSITORY) -> None:
        """Ask for a blob that is there, without following where its bytes are."""
        found = self.client.head(f"/v2/{repository}/blobs/{digest}")
        assert found.status_code in {200, 307}, found.status_code

    def push_manifest(self, layer: bytes, tag: str) -> None:
        """Push the manifest of an image of one layer."""
        headers = {"content-type": KIND}
        self.ask("PUT", f"/v2/{REPOSITORY}/manifests/{tag}", 201, content=encode(image(layer)), headers=headers)

    def push_image(self, tag: str) -> bytes:
        """Push an image of one new layer."""
        layer = os.urandom(5000)
        self.push_blob(CONFIG)
        self.push_blob(layer)
        self.push_manifest(layer, tag)
        return layer


@dataclass(frozen=True, slots=True)
class Operation:
    """A request, how it is prepared, and whether it may take at most as many calls as in distribution."""

    name: str
    ask: Callable[[Registry], Act]
    is_compared: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """What an operation took."""

    operation: Operation
    ours: Counter[str]
    theirs: Counter[str]


def _present(registry: Registry) -> Act:
    digest = registry.push_blob(b"present")
    return lambda: registry.look(digest)


def _absent(registry: Registry) -> Act:
    registry.push_blob(b"present")
    digest = Digest.of(os.urandom(8))
    return lambda: registry.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}", 404)


def _read(registry: Registry) -> Act:
    digest = registry.push_blob(b"present")
    return lambda: registry.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}", 200, follow_redirects=True)


def _push(registry: Registry) -> Act:
    registry.push_blob(os.urandom(5000))
    return lambda: registry.push_blob(os.urandom(5000))


def _mount(registry: Registry) -> Act:
    digest = registry.push_blob(os.urandom(5000))
    given = {"mount": str(digest), "from": REPOSITORY}
    return lambda: registry.ask("POST", f"/v2/{OTHER}/blobs/uploads/", 201, params=given)


def _new_manifest(registry: Registry) -> Act:
    registry.push_image("v0")
    layer = os.urandom(5000)
    registry.push_blob(layer)
    return lambda: registry.push_manifest(layer, f"v{secrets.token_hex(4)}")


def _brought_elsewhere(registry: Registry) -> Act:
    registry.push_image("v0")
    layer, config = os.urandom(5000), os.urandom(100)
    for body in (layer, config):
        registry.at_the_other().push_blob(body)
    manifest = encode(image(layer, config=config))
    path, headers = f"/v2/{REPOSITORY}/manifests/v{secrets.token_hex(4)}", {"content-type": KIND}
    return lambda: registry.ask("PUT", path, 201, content=manifest, headers=headers)


def _moved_tag(registry: Registry) -> Act:
    registry.push_image("moved")
    layer = os.urandom(5000)
    registry.push_blob(layer)
    return lambda: registry.push_manifest(layer, "moved")


def _same_again(registry: Registry) -> Act:
    layer = registry.push_image("again")
    return lambda: registry.push_manifest(layer, "again")


def _pull(registry: Registry) -> Act:
    registry.push_image("pulled")
    path, headers = f"/v2/{REPOSITORY}/manifests/pulled", {"accept": KIND}
    registry.ask("GET", path, 200, headers=headers)
    return lambda: registry.ask("GET", path, 200, headers=headers)


def _tags(registry: Registry) -> Act:
    def ask() -> None:
        assert len(registry.ask("GET", f"/v2/{TAGGED}/tags/list", 200).json()["tags"]) == MANY

    return ask


def _catalog(query: str) -> Callable[[Registry], Act]:
    def ask(registry: Registry) -> None:
        assert len(registry.ask("GET", f"/v2/_catalog{query}", 200).json()["repositories"]) >= 100

    return lambda registry: lambda: ask(registry)


BLOB_PUSH = "push of a small layer as docker does it: HEAD, POST, PATCH, PUT, HEAD"
BLOB_PRESENT, BLOB_READ = "HEAD of a blob that is there", "GET of a blob"
MANIFEST_PUT, MANIFEST_GET = "PUT of a new manifest under a new tag", "GET of a manifest by tag"
OPERATIONS = (
    Operation(BLOB_PRESENT, _present),
    Operation("HEAD of a blob that is not there", _absent),
    Operation(BLOB_READ, _read),
    Operation(BLOB_PUSH, _push),
    Operation("mount: POST with `mount` and `from`", _mount),
    Operation(MANIFEST_PUT, _new_manifest),
    Operation("the same, its blobs pushed through another server", _brought_elsewhere),
    Operation("PUT of a new manifest, moving a tag", _moved_tag),
    Operation("PUT of the same manifest again", _same_again),
    Operation(MANIFEST_GET, _pull),
    Operation("tags/list of 10,000 tags", _tags, is_compared=False),
    Operation("catalog of 10,000 repositories, first page", _catalog(""), is_compared=False),
    Operation("the same with `n=100`", _catalog("?n=100"), is_compared=False),
)


def count(weed: Store, program: str, directory: Path) -> list[Row]:
    """Count every operation in both registries, over the same data."""
    prefix = f"calls/{secrets.token_hex(8)}"
    seed(weed, prefix)
    with (
        proxying_in_a_thread(weed.endpoint) as proxy,
        _serving_ours(weed, proxy, prefix, directory) as ours,
        _serving_theirs(weed, proxy, prefix, program, directory) as theirs,
    ):
        return [Row(each, ours.count(each.ask), theirs.count(each.ask)) for each in OPERATIONS]


def seed(weed: Store, prefix: str) -> None:
    """Put 10,000 tags and repositories there; the catalog of distribution is the tree of the repositories itself."""
    repositories = [f"team-{number % 100:02}/app-{number:05}" for number in range(MANY // 2)]
    repositories += [f"app-{number:05}" for number in range(MANY // 2)]
    digest = Digest.of(b"whatever it is")
    link = link_text(digest)
    tags = {keys.tag_link(TAGGED, f"1.{number // 100}.{number % 100}-rc"): link for number in range(MANY)}
    entries = {keys.catalog_entry(name): b"" for name in repositories}
    theirs = {keys.revision_link(name, digest): link for name in repositories}
    put_all(weed, {f"{prefix}/{key}": body for key, body in {**tags, **entries, **theirs}.items()})


@contextlib.contextmanager
def _serving_ours(weed: Store, proxy: Proxy, prefix: str, directory: Path) -> Iterator[Registry]:
    with contextlib.ExitStack() as opened:
        clients = []
        for name in ("one", "other"):
            server = start(
                directory / name,
                log=directory / f"{name}.log",
                arguments=["--data", f"s3://{BUCKET}/{prefix}"],
                environment={**weed.environment(), "AWS_ENDPOINT_URL": proxy.endpoint},
            )
            opened.callback(server.stop)
            clients.append(opened.enter_context(httpx.Client(base_url=server.url, timeout=60)))
        yield Registry(clients[0], clients[1], proxy)


@contextlib.contextmanager
def _serving_theirs(weed: Store, proxy: Proxy, prefix: str, program: str, directory: Path) -> Iterator[Registry]:
    storage = weed.for_distribution(prefix).replace(weed.endpoint, proxy.endpoint)
    with (
        serving_distribution(program, directory, log=directory / "theirs.log", storage=storage) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield Registry(client, client, proxy)


def page_text(rows: list[Row]) -> str:
    """What stands in the page of these rows: the counts, and what follows for a day."""
    lines = ["| request | Pierhead | distribution v3 |", "|---|---|---|"]
    lines += [f"| {row.operation.name} | {_cell(row.ours)} | {_cell(row.theirs)} |" for row in rows]
    lines += ["", *_bill(rows)]
    return "\n".join(lines) + "\n"


def _bill(rows: list[Row]) -> Iterator[str]:
    """What a day costs: an image of five blobs, of which a push brings two."""
    found = {row.operation.name: row for row in rows}
    yield "| | Pierhead: writes and listings | reads | distribution v3: writes and listings | reads |"
    yield "|---|---|---|---|---|"
    total: list[Counter[str]] = [Counter(), Counter()]
    for name, times, parts in (
        ("a push of two new blobs of five", PUSHES, {BLOB_PUSH: 2, BLOB_PRESENT: 3, MANIFEST_PUT: 1}),
        ("a pull of five blobs", PULLS, {MANIFEST_GET: 1, BLOB_READ: 5}),
    ):
        cells = []
        for side, sums in zip(("ours", "theirs"), total, strict=True):
            counts = [(getattr(found[part], side), number) for part, number in parts.items()]
            dear = sum(number * _dear(each) for each, number in counts)
            cheap = sum(number * each[kind] for each, number in counts for kind in CHEAP)
            sums.update(dear=dear * times, cheap=cheap * times)
            cells += [str(dear), str(cheap)]
        yield f"| {name} | {' | '.join(cells)} |"
    days = [f"{sums[kind]:,}" for sums in total for kind in ("dear", "cheap")]
    yield f"| a day of {PUSHES:,} pushes and {PULLS:,} pulls | {' | '.join(days)} |"
    bills = [sums["dear"] * DEAR_DOLLARS + sums["cheap"] * CHEAP_DOLLARS for sums in total]
    yield "| its bill at $0.005 and $0.0004 per 1,000 | " + " | | ".join(f"${bill:.2f}" for bill in bills) + " | |"
    rates = [(sums["dear"] + sums["cheap"]) / 86_400 for sums in total]
    yield "| calls a second, on average | " + " | | ".join(f"{rate:.0f}" for rate in rates) + " | |"


def _dear(counts: Counter[str]) -> int:
    return sum(number for kind, number in counts.items() if kind not in CHEAP | FREE)


def _cell(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{number} {SHORT.get(kind, kind)}" for kind, number in sorted(counts.items()))
    return f"**{counts.total()}**: {kinds}"


def counted(page: str) -> str:
    """The part of the page that is counted."""
    return page.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    _program = find_tool(V3)
    if _program is None:
        sys.exit(f"{V3} is missing: make tools")
    with tempfile.TemporaryDirectory() as _directory, serving_weed(require_weed(), Path(_directory)) as _weed:
        _written = page_text(count(_weed, str(_program), Path(_directory)))
    print(_written)  # noqa: T201  # what it is for
    if PAGE.exists():
        _page = PAGE.read_text()
        PAGE.write_text(re.sub(f"(?s)({BEGIN}).*({END})", lambda found: found[1] + _written + found[2], _page))
