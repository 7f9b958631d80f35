"""`pierhead storage`: what the store's bytes are, and everything at its place."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer

from registry.cli.configuration import Config, load_or_exit
from registry.cli.help import examples
from registry.cli.scanning import COULD_NOT, Json, describe, format_bytes, run, shown
from registry.cli.serve import Data
from registry.config import Settings
from registry.findings import printable
from registry.scan import Tally
from registry.stores import open_driver
from registry.usage import Measuring, Usage, Use
from storage.drivers import Driver

app = typer.Typer(
    help="Tell what a store's bytes are used for, or move blobs to their places.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Work = Callable[[Driver, Tally], Coroutine[None, None, int]]
BUCKET = "--data s3://images/registry"


@app.command("check", epilog=examples(f"storage check {BUCKET}", f"storage check {BUCKET} --json"))
def check(data: Data = None, config: Config = None, *, as_json: Json = False) -> None:
    """Compare the bytes of a store with those that repositories refer to.

    Counts everything below the prefix of a bucket, or in a directory: blobs and manifests that a repository links to,
    those that none does, uploads that have not ended, with the parts of uploads that were never completed, and what
    Pierhead does not know. Serving and pushing may go on meanwhile; nothing is changed. Exit code: 0, 2 usage, 3 it
    could not look.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work(driver: Driver, tally: Tally) -> int:
        async with shown(tally):
            usage = await Measuring(driver, tally).run()
        typer.echo(_as_json(usage) if as_json else _as_table(usage))
        return 0

    raise typer.Exit(_run("storage check", settings, work))


@app.command("compact", epilog=examples(f"storage compact {BUCKET}"))
def compact(
    data: Data = None,
    config: Config = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, the summary last.")] = False,
) -> None:
    """Move every large blob to its place in the bucket, where other registries find it.

    A large blob can be pulled as soon as its push has ended, and is moved to its place afterwards. Run this before
    distribution serves the bucket, with no server of Pierhead running: then nothing is left to be moved. Exit code: 0
    everything is at its place, 2 usage, 3 something is not.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work(driver: Driver, tally: Tally) -> int:
        failed = 0
        tally.enter("moving")
        async with shown(tally):
            async for moved in driver.compact():
                if moved.error is None:
                    tally.counts["blobs"] += 1
                    tally.counts["bytes"] += moved.size
                    continue
                failed += 1
                line = {"failed": moved.key, "error": str(moved.error)}
                typer.echo(json.dumps(line) if as_json else f"not moved: {printable(moved.key)}: {moved.error}")
        if as_json:
            typer.echo(json.dumps({"summary": "compacted", "counts": dict(tally.counts), "failed": failed}))
        else:
            typer.echo(f"moved: {describe(tally)}; {failed} failed")
        return COULD_NOT if failed else 0

    raise typer.Exit(_run("storage compact", settings, work))


def _run(name: str, settings: Settings, work: Work) -> int:
    async def on_store() -> int:
        driver = open_driver(settings)
        try:
            await driver.start()
            return await work(driver, Tally())
        finally:
            await driver.close()

    return run(name, settings.data, on_store)


def _as_json(usage: Usage) -> str:
    uses = {
        use.name.lower(): {"objects": usage.objects[use], "bytes": usage.sizes[use], "means": use.value} for use in Use
    }
    return json.dumps({"uses": uses, "total_bytes": usage.total})


def _as_table(usage: Usage) -> str:
    rows = [(use.value, str(usage.objects[use]), format_bytes(usage.sizes[use])) for use in Use]
    rows.append(("together", str(sum(usage.objects.values())), format_bytes(usage.total)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{what:<{widths[0]}}  {objects:>{widths[1]}}  {size:>{widths[2]}}" for what, objects, size in rows]
    return "\n".join(lines)
