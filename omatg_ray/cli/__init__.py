"""The command `omatg-ray`."""

from omatg_ray.cli.program import main

__all__ = ["main"]
