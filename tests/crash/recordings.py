"""Recorded stories: what a server did to its disk, what it answered meanwhile, and what a power cut would leave."""

import contextlib
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import StorageError
from tests.crash.clients import HereClient, HttpClient
from tests.crash.disks import Bytes, Disk, Tree
from tests.crash.launching import Launcher, Watched
from tests.crash.operations import Story, bytes_of
from tests.crash.promises import GONE, Effects, Kept, Ledger, Upload, check
from tests.crash.steps import STORE, Step
from tests.crash.trees import check_tree

SINGLES_MAX = 24
REQUESTS_MAX = 1000
"""Of one client, where there are several."""
AFTERWARDS = "crash/afterwards"


@dataclass(frozen=True, slots=True)
class Recording:
    """The steps of a server since before its data directory was there, and what each answer acknowledged.

    The first `prepared` answers are not of interest. `at_once` says that requests were not sent one by one.
    """

    parent: Path
    steps: Sequence[Step]
    told: Mapping[int, Effects]
    meanwhile: Mapping[int, Effects]
    ledger: Ledger
    prepared: int = 0
    at_once: bool = False

    def instead(self, steps: Sequence[Step]) -> "Recording":
        """The same story with other steps."""
        return replace(self, steps=steps)

    def moments(self) -> Iterator["Moment"]:
        """Each instant between two steps, beginning with the last answer that was prepared."""
        disk = Disk(self.parent)
        ledger = Ledger(self.ledger.contents, self.ledger.media_types, self.ledger.sent)
        first_change = 0
        under_way = sorted(self.told)
        for step in self.steps:
            disk.take(step)
            is_answer = step.call == "answer" and step.request in self.told
            if is_answer:
                ledger.acknowledge(self.told[step.request])
                under_way.remove(step.request)
            honest = ledger.copy()
            for number in under_way if self.at_once else under_way[: not is_answer]:
                honest.begin(self.meanwhile[number])
                honest.begin(self.told[number])
            answers = len(self.told) - len(under_way)
            if answers >= self.prepared:
                yield Moment(step, answers, disk, first_change, honest, is_answer=is_answer)
            if is_answer:
                first_change = disk.changes
        assert not under_way, "not everything was answered"


@dataclass(frozen=True, slots=True)
class Moment:
    """The instant after a step: after so many answers, the disk as it is, and what is honest then.

    `first_change` is the first change of names since the last answer.
    """

    step: Step
    answers: int
    disk: Disk
    first_change: int
    honest: Ledger
    is_answer: bool

    def remains(self, *, thoroughly: bool) -> Iterator[tuple[str, Tree]]:
        """What a power cut may leave, each with a name: the worst, and what may have survived beyond it."""
        unsure, new = self.disk.unsure(), self.disk.unsure(since=self.first_change)
        yield "nothing but what was fsynced", self.disk.after_power_cut()
        yield "every name, and no bytes,", self.disk.after_power_cut(unsure)
        yield "every name, and zeros for bytes,", self.disk.after_power_cut(unsure, fate=Bytes.ZEROS)
        if not thoroughly:
            return
        yield "everything", self.disk.after_power_cut(unsure, fate=Bytes.NEW)
        for number in new[:SINGLES_MAX]:
            yield f"change {number} alone", self.disk.after_power_cut([number])
        for end in range(1, len(unsure)):
            if unsure[end - 1] >= self.first_change:
                yield f"each change up to {unsure[end - 1]}", self.disk.after_power_cut(unsure[:end])


Tell = Callable[[Story], None]


def record(launcher: Launcher, parent: Path, prepare: Callable[[Story], Callable[[], None]]) -> Recording:
    """Serve a directory that is not there yet to one client, and kill the server when it has done."""
    with serving(launcher, parent, workers=1) as (watched, url):
        story = Story(HttpClient(url), Ledger(), durable_begin=False)
        run = prepare(story)
        prepared = story.number
        run()
    return Recording(parent, watched.trace.read(), story.told, story.meanwhile, story.ledger, prepared)


def record_at_once(launcher: Launcher, parent: Path, tell: Sequence[Tell], *, workers: int) -> Recording:
    """Serve a directory that is not there yet to several clients at once; none may touch what is another's."""
    ledger = Ledger()
    with serving(launcher, parent, workers=workers) as (watched, url), ThreadPoolExecutor(len(tell)) as threads:
        stories = [
            Story(HttpClient(url), ledger.copy(), durable_begin=False, number=number * REQUESTS_MAX)
            for number in range(len(tell))
        ]
        for told in [threads.submit(each, story) for each, story in zip(tell, stories, strict=True)]:
            told.result()
    return Recording(
        parent,
        watched.trace.read(),
        dict(ChainMap(*(story.told for story in stories))),
        dict(ChainMap(*(story.meanwhile for story in stories))),
        ledger,
        at_once=len(tell) > 1,
    )


@contextlib.contextmanager
def serving(launcher: Launcher, parent: Path, *, workers: int) -> Iterator[tuple[Watched, str]]:
    """Serve a directory below `parent`, recording from before either of them is there."""
    parent.mkdir()
    watched = Watched.beside(parent / STORE)
    watched.control.arm()
    server = launcher.start(watched.data, workers=workers, watched=watched)
    yield watched, server.url
    server.kill()


def judge(tree: Tree, ledger: Ledger, directory: Path) -> list[str]:
    """Start a registry on what is left, and return a line for each promise that it breaks."""
    directory.mkdir()
    tree.lay_out(directory)
    data = directory / STORE
    broken = check_tree(data, power_cut=True) if data.exists() else []
    try:
        with HereClient(data) as client:
            return broken + check(client, ledger, is_told=True) + _go_on(client, ledger)
    except StorageError as error:
        return [*broken, f"the store can't be opened: {error}"]


def _go_on(client: HereClient, ledger: Ledger) -> list[str]:
    """Whatever is left, what was acknowledged of a session can be made a blob, and pushing works."""
    story = Story(client, ledger.copy())
    story.ledger.sent = dict(ledger.sent)
    try:
        for item, outcomes in ledger.honest.items():
            (outcome,) = outcomes if len(outcomes) == 1 else (GONE,)
            if isinstance(item, Upload) and isinstance(outcome, Kept):
                story.ledger.sent[item] = ledger.sent[item][: outcome.last]
                story.finish(item)
        for repository in sorted({item.repository for item in ledger.honest})[:1] or [AFTERWARDS]:
            story.delete_blob(story.post(repository, bytes_of(100)))
            story.put(story.image(repository), "afterwards")
    except AssertionError as error:
        return [f"what comes afterwards: {error}"]
    return check(client, story.ledger, [item for item in story.ledger.honest if item not in ledger.honest])
