"""`python -m omatg_ray` is the command `omatg-ray`."""

import sys

from omatg_ray.cli import program as main

if __name__ == "__main__":
    sys.exit(main())
