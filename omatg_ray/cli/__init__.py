"""The command `omatg-ray`."""

from omatg_ray.cli.main import main

__all__ = ["main"]
