"""Entry point of `python -m omatg_ray`, which is the command `omatg-ray`."""

import sys

from omatg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
