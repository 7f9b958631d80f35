"""`pierhead verify --repair`: verification and repair in rounds, on the store itself."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import typer

from registry.cli.configuration import USAGE
from registry.cli.scanning import Report, parts_on
from registry.config import Settings
from registry.findings import Finding
from registry.hashing import Hasher
from registry.repair.remotes import Remotes, Target, parse_target
from registry.repair.rounds import Making, Rounds
from registry.repair.steps import Tools
from registry.scan import Parts, Tally
from registry.uploads import UploadLimits, Uploads
from storage.drivers import Driver
from storage.uploads import UploadStore


def parse_sources(urls: list[str], *, insecure: bool, password_file: Path | None) -> list[Target]:
    """Registries to fetch from. If the command line is wrong about them, say so and end with USAGE."""
    try:
        password = None if password_file is None else password_file.read_text().rstrip("\n")
        return [parse_target(url, insecure=insecure, password=password) for url in urls]
    except (OSError, ValueError, httpx.InvalidURL) as error:
        typer.echo(f"pierhead verify: {error}", err=True)
        raise typer.Exit(USAGE) from None


def make_rounds(
    settings: Settings, driver: Driver, remotes: Remotes, report: Report, tally: Tally, *, dry: bool
) -> Rounds:
    """Connect what repairs a store. What pushes go through here is what they go through in a server."""
    from registry.operations import Operations, new_id  # noqa: PLC0415  # --help needs nothing of it

    unlimited = settings.model_copy(update={"quota": ()})  # what is put right was there before

    def parts(told: Callable[[Finding], None]) -> Parts:
        return parts_on(driver, settings.data, told, tally, condemn=not dry)

    def tools(made: Parts) -> Tools:
        operations = Operations(unlimited, driver)
        uploads = Uploads(
            UploadStore(driver, clock=time.time),
            operations.stores.blobs,
            operations.stores.catalog,
            limits=UploadLimits(uploads_max=1),
            new_id=new_id,
        )
        return Tools(
            driver,
            operations.stores,
            operations.manifests,
            uploads,
            operations.history,
            made.inspection,
            Hasher(driver, read=lambda _count: None),
            remotes,
            tally,
            settings.sparse,
            operations.immutability,
        )

    return Rounds(Making(parts, tools), told=lambda outcome: report.outcome(outcome, dry=dry), dry=dry)


def told_counts(rounds: Rounds) -> dict[str, dict[str, int]]:
    """What was done, by kind, for the summary."""
    changes = rounds.changes
    return {
        "repaired": dict(rounds.repaired),
        "not_repaired": dict(rounds.failed),
        "added": dict(changes.added),
        "removed": dict(changes.removed),
    }
