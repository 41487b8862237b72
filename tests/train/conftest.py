"""What the tests of commands share, too."""

from tests.commands.conftest import base, de_novo, workshop

__all__ = ["base", "de_novo", "workshop"]
