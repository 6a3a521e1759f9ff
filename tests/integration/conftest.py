"""What the tests against real parts share."""

from tests.support.control_plane import plane
from tests.support.database import database, database_url

__all__ = ["database", "database_url", "plane"]
