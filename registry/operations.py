"""The lower half of the composition root: what works on a store, connected for the server and for the command line."""

import secrets
import time
from functools import partial

from registry.collector.background import Background
from registry.collector.collection import Collection
from registry.collector.rules import CollectorStores, Pace
from registry.collector.rules import Rules as CollectorRules
from registry.config import Settings
from registry.histories import Histories
from registry.immutability import Immutability
from registry.imports import Imports
from registry.manifests import Manifests, ManifestStores
from registry.quota_rules import QuotaRules
from registry.quotas import Quotas
from registry.recounts import Recounting
from registry.repositories import Repositories
from registry.retention.plans import HistoryWindow, Planner
from registry.retention.pulls import Pulls
from registry.retention.runs import Record, Retention
from registry.retention.verdicts import Rules as RetentionRules
from registry.scan import Tally
from registry.usage_sweeps import UsageSweep
from storage.arrivals import Arrivals
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.collected import CollectedStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.history import HistoryStore
from storage.leases import LeaseStore
from storage.manifests import ManifestStore
from storage.pulls import PullStore
from storage.referrers import ReferrerStore
from storage.removals import RemovalStore
from storage.repositories import RepositoryStore
from storage.retention import RetentionStore
from storage.tags import TagStore
from storage.uploads import UploadStore
from storage.usage import UsageStore


class Operations:
    """Everything that is done to a store under the rules of the settings, made once for each process and store."""

    def __init__(self, settings: Settings, driver: Driver) -> None:
        self._settings = settings
        self._driver = driver
        arrivals = Arrivals(driver)
        self.history = HistoryStore(driver, time.time, new_id)
        self.stores = ManifestStores(
            ManifestStore(driver, arrivals=arrivals),
            BlobStore(driver, arrivals=arrivals),
            TagStore(driver, self.history),
            ReferrerStore(driver),
            CatalogStore(driver),
            RemovalStore(driver, clock=time.time, new_id=new_id),
            driver.capabilities.calls_at_once,
        )
        self.usage = UsageStore(driver, clock=time.time, new_id=new_id)
        self.quota_rules = QuotaRules(settings.quota)
        self.quotas = Quotas(self.quota_rules, self.usage) if self.quota_rules else None
        self.immutability = Immutability(settings.immutable)
        self.manifests = Manifests(
            self.stores,
            opaque_types=settings.manifest_types,
            sparse=settings.sparse,
            delete=settings.delete,
            immutability=self.immutability,
            quotas=self.quotas,
        )
        self.repositories = Repositories(
            self.stores,
            self.manifests,
            UploadStore(driver, clock=time.time),
            RepositoryStore(driver),
            immutability=self.immutability,
            delete=settings.delete,
        )
        self.histories = Histories(
            self.history, self.manifests, self.stores.manifests, calls_at_once=self.stores.calls_at_once
        )

    def usage_sweep(self) -> UsageSweep | None:
        """What keeps the usage of prefixes with a quota true; None without quotas."""
        if not self.quota_rules:
            return None
        return UsageSweep(
            self._driver,
            self.usage,
            self.stores.catalog,
            self.quota_rules,
            recount_seconds=self._settings.usage.recount_seconds,
            warn_percent=self._settings.usage.warn_percent,
        )

    def collector(self, *, share: float, tally: Tally | None = None) -> tuple[CollectorStores, CollectorRules]:
        """What a garbage collection works on; `share` is how much of one processor it takes, from 0 to 1."""
        settings, gc, stores = self._settings, self._settings.gc, self.stores
        imports, are_imported = Imports(self._driver, self.history), False

        async def kept(repository: str) -> set[Digest]:
            nonlocal are_imported
            since = time.time() - settings.history.keep_seconds
            found = await self.history.kept(repository, since=since, last=settings.history.keep_last)
            digests = {digest for digests in found.values() for digest in digests}
            are_imported = are_imported or await imports.are_done()
            if not are_imported:
                # Earlier states are told by the indexes of tags alone until their histories have begun.
                digests |= await imports.known(repository)
            return digests

        return CollectorStores(
            self._driver,
            stores.manifests,
            stores.tags,
            stores.referrers,
            stores.catalog,
            UploadStore(self._driver, clock=time.time),
            stores.removals,
            CollectedStore(self._driver),
            kept,
            Pace(share),
            tally or Tally(),
        ), CollectorRules(gc.grace_seconds, gc.trash_seconds, gc.log_seconds, gc.brake_share)

    def collection(self, *, share: float, tally: Tally | None = None) -> Collection:
        """Make a collection."""
        stores, rules = self.collector(share=share, tally=tally)
        return Collection(stores, rules, clock=time.time, new_id=new_id)

    def background_collector(self, leases: LeaseStore) -> Background | None:
        """What collects again and again, and counts afterwards what repositories hold; None if it is switched off."""
        gc = self._settings.gc
        if not gc.enabled:
            return None

        async def count() -> None:
            recounting = Recounting(self._driver, Tally(), rest=Pace(gc.cpu_share).rest)
            await recounting.run_and_store(self.usage, clock=time.time)

        make = partial(self.collection, share=gc.cpu_share)
        return Background(leases, make, interval_seconds=gc.interval_seconds, count=count)

    def pulls(self) -> Pulls | None:
        """What takes note of pulls; None if no rule of retention asks for them."""
        rules = RetentionRules(self._settings.retention.rules)
        if not rules.counts_any_pulls:
            return None
        flush_seconds = self._settings.retention.pull_flush_seconds
        return Pulls(PullStore(self._driver, new_id=new_id), rules, flush_seconds=flush_seconds)

    def retention(self, record: Record) -> Retention:
        """What carries the rules of retention out; `record` is told what it removes, for the audit trail."""
        settings, driver, stores = self._settings, self._driver, self.stores
        rules, pulls = settings.retention.rules, PullStore(driver, new_id=new_id)
        window = HistoryWindow(settings.history.keep_seconds, settings.history.keep_last)
        planner = Planner(
            driver,
            stores,
            self.history,
            pulls,
            rules=RetentionRules(rules),
            immutability=self.immutability,
            window=window,
            slack_seconds=settings.retention.pull_flush_seconds,
        )
        return Retention(
            planner,
            stores,
            self.manifests,
            history=self.history,
            pulls=pulls,
            states=RetentionStore(driver),
            rules=rules,
            window=window,
            delay_seconds=settings.retention.delay_seconds,
            record=record,
            new_id=new_id,
        )


def new_id() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)
