"""Retention over a store in memory."""

import itertools
from collections.abc import Sequence

from registry.audit.events import Event
from registry.immutability import Immutability
from registry.retention.plans import HistoryWindow, Planner
from registry.retention.pulls import Pulls
from registry.retention.runs import Retention
from registry.retention.verdicts import Rules
from registry.tag_rules import ImmutableTags, RetentionRule
from storage.pulls import PullStore
from storage.retention import RetentionStore
from tests.registry.services import Services

HOUR, DAY = 3600.0, 86400.0
FLUSH_SECONDS = 600.0
WINDOW = HistoryWindow(keep_seconds=0.0, keep_last=0)

_ids = itertools.count()


def rule(**fields: object) -> RetentionRule:
    """A rule about every repository, unless told otherwise."""
    return RetentionRule.model_validate({"repositories": "**", **fields})


class Keeping:
    """Retention by some rules, and what it has told the audit trail."""

    def __init__(
        self,
        services: Services,
        *rules: RetentionRule,
        window: HistoryWindow = WINDOW,
        delay_seconds: float = DAY,
        immutable: Sequence[ImmutableTags] = (),
    ) -> None:
        self.events: list[Event] = []
        self.pull_store = PullStore(services.driver, new_id=lambda: f"{next(_ids):032x}")
        compiled = Rules(rules)
        self.pulls = Pulls(self.pull_store, compiled, flush_seconds=FLUSH_SECONDS, clock=services.clock)
        planner = Planner(
            services.driver,
            services.stores,
            services.history,
            self.pull_store,
            rules=compiled,
            immutability=Immutability(immutable),
            window=window,
            slack_seconds=FLUSH_SECONDS,
        )
        self.retention = Retention(
            planner,
            services.stores,
            services.manifests,
            history=services.history,
            pulls=self.pull_store,
            states=RetentionStore(services.driver),
            rules=rules,
            window=window,
            delay_seconds=delay_seconds,
            record=self._record,
            new_id=lambda: f"{next(_ids):032x}",
            clock=services.clock,
            pause=services.pause,
        )

    async def _record(self, event: Event) -> None:
        self.events.append(event)
