"""`pierhead audit`: is the trail whole, and what does it say."""

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from registry.audit.chain import KeyInvalid, Mark, load_key
from registry.audit.parts import read_entries
from registry.audit.trails import Head
from registry.audit.verification import Break, Flaw, Place, Seen, Verification
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.scanning import COULD_NOT, INTERRUPTED, Json, shown
from registry.cli.serve import Data
from registry.config import Settings
from registry.findings import Severity, printable
from registry.scan import Tally
from registry.stores import open_driver
from storage import keys
from storage.errors import Corrupt, StorageError

TAKEN_MAX = 100

app = typer.Typer(help="Verify the audit trail, or show events of it.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="The current file of the trail (audit.file).")
]
Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The secret that it is written with (audit.key_file).")
]
Name = Annotated[str, typer.Option("--head", metavar="NAME", help="Which head record of the store is the trail's.")]
WithoutHead = Annotated[
    bool, typer.Option("--without-head", help="There is no store to ask: do not tell whether the end is missing.")
]
Begins = Annotated[
    int, typer.Option("--begins", metavar="N", min=1, help="Accept that events before N were removed on purpose.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From then on: the start of a time in UTC, 2026-11-26T13.")
]
Actor = Annotated[str | None, typer.Option("--actor", metavar="WHO", help="Of one actor, such as user:alice.")]
Repository = Annotated[str | None, typer.Option("--repository", metavar="NAME", help="In one repository.")]
Kind = Annotated[str | None, typer.Option("--event", metavar="EVENT", help="Of one kind, such as tag-moved.")]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be verified, and against what."""

    file: Path
    store: Settings | None
    head: str
    key: Path | None
    begins: int


@app.command(
    "verify", epilog=examples("audit verify", "audit verify --file /var/log/pierhead/audit.log --data /srv/images")
)
def verify(
    file: File = None,
    data: Data = None,
    config: Config = None,
    *,
    key: Key = None,
    head: Name = "head",
    begins: Begins = 1,
    without_head: WithoutHead = False,
    as_json: Json = False,
) -> None:
    """Walk over all files of the trail and tell whether anything was removed, edited, reordered or cut off.

    Events may be written meanwhile; nothing is changed. Exit code: 0 whole, 1 warnings only, 2 usage, 3 it is
    broken, or it could not be read.
    """
    settings = load_or_exit(config, {"data": data}).settings
    file, key = file or settings.audit.file, key or settings.audit.key_file
    directory = None if without_head else settings.data
    if file is None:
        _fail("no trail is configured: name its file with --file")
    if isinstance(directory, Path) and not directory.is_dir():
        _fail(f"{directory} is no directory: name the data directory with --data, or give --without-head")
    raise typer.Exit(_run(Question(file, None if without_head else settings, head, key, begins), as_json=as_json))


@app.command("show", epilog=examples("audit show --actor user:alice --since 2026-11-26"))
def show(
    file: File = None,
    config: Config = None,
    *,
    since: Since = None,
    actor: Actor = None,
    repository: Repository = None,
    event: Kind = None,
) -> None:
    """Print the events that all of the given options hold for, as they stand in the trail, oldest first.

    Nothing is verified. Exit code: 0 also if there are none, 2 usage, 3 the trail could not be read.
    """
    file = file or load_or_exit(config, {}).settings.audit.file
    if file is None:
        _fail("no trail is configured: name its file with --file", command="show")
    wanted = {"actor": actor, "repository": repository, "event": event}
    try:
        for line, entry in read_entries(file.absolute()):
            is_wanted = all(value is None or entry.fields.get(name) == value for name, value in wanted.items())
            if is_wanted and (since is None or entry.time >= since):
                typer.echo(printable(line.decode("utf-8", "replace").removesuffix("\n")))
    except (OSError, EOFError) as error:
        typer.echo(f"pierhead audit show: {printable(str(error))}", err=True)
        raise typer.Exit(COULD_NOT) from None


def _run(question: Question, *, as_json: bool) -> int:
    try:
        return asyncio.run(_verify(question, as_json=as_json))
    except KeyInvalid as error:
        _fail(str(error))
    except (StorageError, OSError, EOFError) as error:
        typer.echo(f"pierhead audit verify: {printable(str(error))}", err=True)
        return COULD_NOT
    except KeyboardInterrupt:
        return INTERRUPTED


async def _verify(question: Question, *, as_json: bool) -> int:
    key = load_key(question.key) if question.key else None
    report, tally = Report(as_json=as_json), Tally()
    mark = await _head(question, key, report) if question.store else None
    verification = Verification(question.file, head=mark, key=key, begins=question.begins, tally=tally)
    breaks = verification.run()
    async with shown(tally):
        while found := await asyncio.to_thread(lambda: list(islice(breaks, TAKEN_MAX))):
            for each in found:
                report.tell(each)
    if not verification.seen.events and mark is None:
        _fail(f"there is no audit trail at {question.file}")
    return report.end(verification.seen, is_keyed=key is not None)


async def _head(question: Question, key: bytes | None, report: "Report") -> Mark | None:
    assert question.store is not None
    driver, mark = open_driver(question.store), None
    try:
        if not isinstance(question.store.data, Path):
            await driver.start()
        with contextlib.suppress(Corrupt):
            mark = await Head(driver, key, question.head, sync=False).get()
    finally:
        await driver.close()
    if mark is None:
        at = keys.audit_head(question.head)
        report.tell(Break(Flaw.HEAD_MISSING, Place(Path(f"{question.store.data}/{at}"), 0)))
    return mark


class Report:
    """Prints what is wrong as it is found, and counts it."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._by_severity: Counter[Severity] = Counter()

    def tell(self, found: Break) -> None:
        """Take one thing that is wrong."""
        severity = found.flaw.severity
        self._by_severity[severity] += 1
        name, kind, file = severity.name.lower(), found.flaw.slug, printable(str(found.place.file))
        if self._as_json:
            self._json(finding=kind, severity=name, file=file, line=found.place.line, text=found.text)
        else:
            self._line(f"{name}: {kind}: {file}{f':{found.place.line}' if found.place.line else ''}")
            self._line(f"    {printable(found.text)}")

    def end(self, seen: Seen, *, is_keyed: bool) -> int:
        """Print the last line, and return the exit code."""
        errors, warnings = self._by_severity[Severity.ERROR], self._by_severity[Severity.WARNING]
        outcome = "broken" if errors else "verified"
        macs = {"checked": seen.macs if is_keyed else 0, "unchecked": 0 if is_keyed else seen.macs}
        if self._as_json:
            found = {"error": errors, "warning": warnings}
            times = {"from": seen.first, "to": seen.last}
            self._json(summary=outcome, found=found, events=seen.events, files=seen.files, macs=macs, **times)
        else:
            if macs["unchecked"]:
                self._line(f"{macs['unchecked']} lines carry a MAC that was not checked: give --key")
            times_text = f", from {printable(seen.first)} to {printable(seen.last)}" if seen.events else ""
            what = f"{_count(seen.events, 'event')}{times_text}, in {_count(seen.files, 'file')}"
            self._line(f"{outcome}: {what}: {_count(errors, 'error')}, {_count(warnings, 'warning')}")
        return COULD_NOT if errors else int(warnings > 0)

    def _line(self, text: str) -> None:
        typer.echo(text)

    def _json(self, **fields: object) -> None:
        self._line(json.dumps(fields))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _fail(text: str, *, command: str = "verify") -> NoReturn:
    typer.echo(f"pierhead audit {command}: {printable(text)}", err=True)
    raise typer.Exit(USAGE)
