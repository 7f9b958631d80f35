"""Reads a data directory as docs/reference/storage-format.md describes it, and finds what is not true in it.

It shares no code with the registry, and asks nobody: it opens files.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Callable
from pathlib import Path

DIGEST = r"(?P<algorithm>sha256|sha512)/(?P<hex>[0-9a-f]{64,128})"
NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*?)"
REPOSITORY = rf"docker/registry/v2/repositories/{NAME}"
OURS = rf"pierhead/repositories/{NAME}"
CHANGE = r"gone|sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128}"
TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")


Known = dict[tuple[str, int, int, int, str], bool]


def check_tree(root: Path, *, killed: bool = False, power_cut: bool = False, known: Known | None = None) -> list[str]:
    """Return a line for each lie below `root`: what is half-written, or leads nowhere.

    If a server was `killed` or lost its power, the index of a tag may lack where the tag points. After a power
    cut, what was written without fsync may be empty or full of zeros. Garbage is none of its
    business: bytes that nobody links to, and whatever lies in the directory of temporary files. `known` saves
    hashing the same file twice, where one tree is checked many times.
    """
    known = {} if known is None else known
    return _Tree(root, killed=killed or power_cut, power_cut=power_cut, known=known).check()


class _Tree:
    def __init__(self, root: Path, *, killed: bool, power_cut: bool, known: Known) -> None:
        self._root = root
        self._killed = killed
        self._known = known
        self._power_cut = power_cut
        self._lies: list[str] = []

    def check(self) -> list[str]:
        for path in sorted(self._root.rglob("*")):
            if path.is_file():
                self._check_file(path, str(path.relative_to(self._root)))
        return self._lies

    def _check_file(self, path: Path, key: str) -> None:
        known: tuple[tuple[str, Callable[[Path, re.Match[str]], None]], ...] = (
            (r"docker/registry/v2/blobs/sha256/(?P<start>..)/(?P<hex>[0-9a-f]{64})/data", self._blob),
            (rf"{REPOSITORY}/_layers/{DIGEST}/link", self._blob_link),
            (rf"{REPOSITORY}/_manifests/revisions/{DIGEST}/link", self._revision),
            (rf"{REPOSITORY}/_manifests/tags/(?P<tag>[\w.-]+)/current/link", self._tag),
            (rf"{REPOSITORY}/_manifests/tags/(?P<tag>[\w.-]+)/index/{DIGEST}/link", self._tag_index),
            (rf"{REPOSITORY}/_uploads/(?P<upload>[0-9a-f]{{32}})/data", self._anything),
            (rf"{REPOSITORY}/_uploads/(?P<upload>[0-9a-f]{{32}})/startedat", self._started),
            (r"pierhead/layout", self._layout),
            (r"pierhead/imported", self._empty),
            (r"pierhead/uploads/(?P<upload>[0-9a-f]{32})", self._record),
            (rf"pierhead/catalog/{NAME}!", self._empty),
            (rf"{OURS}/_types/{DIGEST}", self._type),
            (rf"{OURS}/_referrers/{DIGEST}/(?P<referrer>sha(256|512)-[0-9a-f]+)", self._referrer),
            (rf"{OURS}/_history/[\w.-]+/\d{{16}}\.(?P<change>{CHANGE})\.[0-9a-f]{{32}}", self._history),
            (r"pierhead/sources/(?P<algorithm>sha256|sha512)/(?P<start>..)/(?P<hex>[0-9a-f]+)", self._source),
            (r"pierhead/damaged/.*", self._damaged),
            (rf"pierhead/removals/{NAME}/(_layers|_revisions)/{DIGEST}/[0-9a-f]{{32}}", self._time),
            (rf"{OURS}/_pulls/[0-9a-f]{{32}}", self._json),
            (r"pierhead/retention", self._json),
            (
                rf"pierhead/removals/{NAME}/(_tags/[\w.-]+|_catalog|_repository|_collection|_again)/[0-9a-f]{{32}}",
                self._time,
            ),
            (r"pierhead/gc/(run|last)", self._json),
            (r"pierhead/gc/unlinked", self._anything),
            (r"pierhead/gc/log/\d{16}\.[0-9a-f]{32}\.\d{6}\.(links|bytes)", self._json),
            (r"pierhead/gc/fresh/[0-9a-f]{32}/(blobs|manifests)/sha256-[0-9a-f]{64}", self._empty),
            (r"pierhead/gc/deleting/[0-9a-f]{64}-[0-9a-f]{64}-[0-9a-f]{32}", self._time),
            (r"pierhead/leases/(sweep|history|scrub|retention|collect)", self._lease),
            (r"pierhead/scrub/(shards|cursor)", self._json),
            (rf"pierhead/usage/{NAME}/_head", self._usage),
            (rf"pierhead/usage/{NAME}/_counted/\d{{10}}-[0-9a-f]{{32}}", self._counted),
            (rf"pierhead/usage/{NAME}/_added/\d{{16}}-\d+-[0-9a-f]{{64}}-[0-9a-f]{{32}}", self._empty),
            (r"pierhead/usage/_report", self._report),
            (r"pierhead/locks/(\d\d|trial-[0-9a-f]+)", self._empty),
            (r"pierhead/tmp/[^/]*", self._anything),
        )
        for pattern, judge in known:
            if found := re.fullmatch(pattern, key):
                judge(path, found)
                return
        self._lie(path, "nothing is known that would lie there")

    def _lie(self, path: Path, text: str) -> None:
        self._lies.append(f"{path.relative_to(self._root)}: {text}")

    def _anything(self, path: Path, _found: re.Match[str]) -> None:
        """Bytes on their way, or garbage."""

    def _blob(self, path: Path, found: re.Match[str]) -> None:
        if not self._hashes(path, "sha256", found["hex"]):
            self._lie(path, f"the {path.stat().st_size} bytes do not hash to their name")
        if not found["hex"].startswith(found["start"]):
            self._lie(path, "it lies in another folder than its own")

    def _hashes(self, path: Path, algorithm: str, digest: str) -> bool:
        found = path.stat()
        key = (str(path), found.st_ino, found.st_mtime_ns, found.st_size, algorithm)
        if key not in self._known:
            self._known[key] = hashlib.new(algorithm, path.read_bytes()).hexdigest() == digest
        return self._known[key]

    def _linked(self, path: Path, found: re.Match[str]) -> Path | None:
        """Follow a link to its bytes."""
        text = path.read_text(errors="replace")
        match = re.fullmatch(r"sha256:([0-9a-f]{64})", text)
        if not match or (found["algorithm"] == "sha256" and match[1] != found["hex"]):
            self._lie(path, f"the link holds {text[:90]!r}")
            return None
        target = self._root / f"docker/registry/v2/blobs/sha256/{match[1][:2]}/{match[1]}/data"
        if not target.is_file():
            self._lie(path, "the link leads nowhere")
            return None
        if not self._hashes(target, found["algorithm"], found["hex"]):
            self._lie(path, "the link leads to other bytes")
            return None
        return target

    def _blob_link(self, path: Path, found: re.Match[str]) -> None:
        self._linked(path, found)

    def _revision(self, path: Path, found: re.Match[str]) -> None:
        target = self._linked(path, found)
        if target is None:
            return
        manifest = json.loads(target.read_bytes())
        repository = self._root / "docker/registry/v2/repositories" / found["name"]
        for descriptor in (manifest.get("config"), *manifest.get("layers", ())):
            if descriptor and not (repository / "_layers" / _folder(descriptor["digest"]) / "link").is_file():
                self._lie(path, f"the manifest refers to {descriptor['digest']}, which the repository lacks")
        for descriptor in manifest.get("manifests", ()):
            folder = repository / "_manifests/revisions" / _folder(descriptor["digest"])
            if not (folder / "link").is_file():
                self._lie(path, f"the index refers to {descriptor['digest']}, which the repository lacks")

    def _tag(self, path: Path, _found: re.Match[str]) -> None:
        text = path.read_text(errors="replace")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", text):
            self._lie(path, f"the tag holds {text[:90]!r}")
            return
        manifests = path.parents[3]
        if not (manifests / "revisions" / _folder(text) / "link").is_file():
            self._lie(path, "the tag leads nowhere")
        if not self._killed and not (path.parents[1] / "index" / _folder(text) / "link").is_file():
            self._lie(path, "the tag's index does not know where it points")

    def _tag_index(self, path: Path, found: re.Match[str]) -> None:
        text = path.read_text(errors="replace")
        if text != f"{found['algorithm']}:{found['hex']}":
            self._lie(path, f"the link holds {text[:90]!r}")

    def _layout(self, path: Path, _found: re.Match[str]) -> None:
        if path.read_bytes() != b"pierhead layout 1\n":
            self._lie(path, "the version is damaged")

    def _json(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path):
            try:
                told = json.loads(path.read_bytes())
            except ValueError:
                told = None
            if not isinstance(told, dict):
                self._lie(path, "it is torn, or no object")

    def _empty(self, path: Path, _found: re.Match[str]) -> None:
        if path.stat().st_size:
            self._lie(path, "it should be empty")

    def _started(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path) and not re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", path.read_bytes()):
            self._lie(path, "it holds no time")

    def _record(self, path: Path, found: re.Match[str]) -> None:
        if self._lost(path):
            return
        try:
            fields = json.loads(path.read_bytes())
        except ValueError:
            self._lie(path, "the record is torn")
            return
        if fields["id"] != found["upload"]:
            self._lie(path, "the record is another session's")

    def _type(self, path: Path, _found: re.Match[str]) -> None:
        if not TYPE.fullmatch(path.read_text(errors="replace")):
            self._lie(path, "it holds no media type")

    def _referrer(self, path: Path, found: re.Match[str]) -> None:
        try:
            digest = json.loads(path.read_bytes())["digest"]
        except (ValueError, KeyError):
            self._lie(path, "the descriptor is torn")
            return
        if digest != found["referrer"].replace("-", ":", 1):
            self._lie(path, "the descriptor is another manifest's")

    def _history(self, path: Path, found: re.Match[str]) -> None:
        try:
            fields = json.loads(path.read_bytes())
        except ValueError:
            self._lie(path, "the record is torn")
            return
        new = "gone" if fields["new"] is None else fields["new"].replace(":", "-", 1)
        if set(fields) != {"who", "old", "new", "why", "when"} or new != found["change"]:
            self._lie(path, "the record is another change's")

    def _source(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path) and not re.fullmatch(NAME, path.read_text(errors="replace")):
            self._lie(path, "it holds no name of a repository")

    def _time(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path) and not re.fullmatch(rb"\d+\.\d+( done)?", path.read_bytes()):
            self._lie(path, "it holds no time")

    def _lease(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path) and set(json.loads(path.read_bytes())) != {"holder", "ended", "written"}:
            self._lie(path, "it is no lease")

    def _usage(self, path: Path, found: re.Match[str]) -> None:
        fields = json.loads(path.read_bytes())
        counted = path.parent / "_counted" / fields["counted"]
        if not counted.is_file():
            self._lie(path, "the list of what was counted is missing")
        elif counted.stat().st_size != 16 * fields["blobs"]:
            self._lie(counted, f"it has not the {fields['blobs']} blobs that were counted below {found['name']}")

    def _counted(self, path: Path, _found: re.Match[str]) -> None:
        numbers = array("Q", path.read_bytes())
        blobs = numbers[: len(numbers) // 2].tolist()
        if blobs != sorted(set(blobs)):
            self._lie(path, "the blobs are not in order")

    def _report(self, path: Path, _found: re.Match[str]) -> None:
        if not self._lost(path) and set(json.loads(path.read_bytes())) != {"version", "began", "held"}:
            self._lie(path, "it is no report")

    def _damaged(self, path: Path, _found: re.Match[str]) -> None:
        self._lie(path, "a blob has been found damaged")

    def _lost(self, path: Path) -> bool:
        """Whether a file that was written without fsync has lost its bytes, as it may."""
        return self._power_cut and not path.read_bytes().strip(b"\0")


def _folder(digest: str) -> str:
    return digest.replace(":", "/", 1)
