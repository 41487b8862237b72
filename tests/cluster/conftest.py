from tests.commands.conftest import Workshop, base, workshop

__all__ = ["Workshop", "base", "workshop"]
