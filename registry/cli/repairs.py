"""`pierhead verify --repair`: verification and repair in rounds, on the store itself."""

import secrets
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
from registry.immutability import Immutability
from registry.manifests import Manifests, ManifestStores
from registry.repair.remotes import Remotes, Target, parse_target
from registry.repair.rounds import Making, Rounds
from registry.repair.steps import Tools
from registry.scan import Parts, Tally
from registry.uploads import UploadLimits, Uploads
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.drivers import Driver
from storage.history import HistoryStore
from storage.manifests import ManifestStore
from storage.referrers import ReferrerStore
from storage.tags import TagStore
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

    def parts(told: Callable[[Finding], None]) -> Parts:
        return parts_on(driver, settings.data, told, tally, condemn=not dry)

    immutability = Immutability(settings.immutable)

    def tools(made: Parts) -> Tools:
        blobs, catalog = BlobStore(driver), CatalogStore(driver)
        history = HistoryStore(driver, time.time, _new_id)
        stores = ManifestStores(
            ManifestStore(driver),
            blobs,
            TagStore(driver, history),
            ReferrerStore(driver),
            catalog,
            made.removals,
            driver.capabilities.calls_at_once,
        )
        uploads = Uploads(
            UploadStore(driver, clock=time.time),
            blobs,
            catalog,
            limits=UploadLimits(uploads_max=1),
            new_id=_new_id,
        )
        return Tools(
            driver,
            stores,
            Manifests(stores, opaque_types=settings.manifest_types, sparse=settings.sparse, immutability=immutability),
            uploads,
            history,
            made.inspection,
            Hasher(driver, read=lambda _count: None),
            remotes,
            tally,
            settings.sparse,
            immutability,
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


def _new_id() -> str:
    return secrets.token_hex(16)
