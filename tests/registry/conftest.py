"""Sets hypothesis up for the tests of the rules."""

from tests import properties

__all__ = ["properties"]
