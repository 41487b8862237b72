"""What the tests of commands share, too."""

from tests.commands.conftest import assets, base, command, de_novo, sealed, trained, workshop

__all__ = ["assets", "base", "command", "de_novo", "sealed", "trained", "workshop"]
