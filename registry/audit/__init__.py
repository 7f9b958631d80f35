"""The audit trail: who did what, one line an event, each line chained to the one before."""

from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable, Trail

__all__ = ["AuditUnavailable", "Event", "EventKind", "Trail"]
