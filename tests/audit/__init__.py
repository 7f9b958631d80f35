"""The audit trail: chained, shared by processes, healed after crashes, and verified."""
