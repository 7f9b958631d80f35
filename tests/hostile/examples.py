"""How hypothesis is set up where each example is sent to a server."""

import os

from hypothesis import HealthCheck, settings

WIRE = settings(
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
