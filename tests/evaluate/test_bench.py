from __future__ import annotations

import torch

from omatg_ray.evaluate.bench import BLOCK, blocks_of


def test_blocks_are_consecutive_and_bounded_in_pairs_and_in_number() -> None:
    sizes = [5] * 700 + [20] * 30 + [60]
    blocks = blocks_of(sizes, chunk_pairs=2000)
    assert torch.equal(torch.cat(blocks), torch.arange(len(sizes)))
    pairs = [sum(sizes[row] ** 2 for row in rows) for rows in blocks]
    # 80 cells of 5 atoms or 5 of 20 fill a call; one that is larger than a call is a block of its own.
    assert max(pairs[:-1]) == 2000
    assert pairs[-1] == 3600 and len(blocks[-1]) == 1
    assert [len(rows) for rows in blocks[:8]] == [80] * 8


def test_small_cells_do_not_make_one_endless_block() -> None:
    lengths = [len(rows) for rows in blocks_of([1] * (2 * BLOCK + 7), chunk_pairs=10**9)]
    assert lengths == [BLOCK, BLOCK, 7]
