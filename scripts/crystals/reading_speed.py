"""Crystals read per second, on one thread, with a profile.

python scripts/crystals/reading_speed.py FILE [--limit N]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import torch

from omatg_ray.crystal.read import read_dataset


def main() -> None:
    """Read a file twice: once for the time, once for the profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    read_dataset(arguments.file, limit=10)  # trigger the imports
    start = time.process_time()
    dataset = read_dataset(arguments.file, limit=arguments.limit)
    seconds = time.process_time() - start
    print(f"{len(dataset)} crystals in {seconds:.1f} s of processor time: {len(dataset) / seconds:.0f} a second")
    with cProfile.Profile() as profile:
        read_dataset(arguments.file, limit=arguments.limit)
    pstats.Stats(profile).sort_stats("cumulative").print_stats("omatg_ray", 20)


if __name__ == "__main__":
    main()
