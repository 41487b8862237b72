"""The closest of all generated crystals to each reference, for tests."""

from __future__ import annotations

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.matching import Matcher, MatchResult


def best_matches(matcher: Matcher, generated: CrystalBatch, reference: CrystalBatch) -> MatchResult:
    """Match every reference against all generated crystals, the basis of METRe: `rmse` has one entry per reference."""
    n, m = len(reference), len(generated)
    result = matcher.listed(generated, reference, [(i, j) for j in range(n) for i in range(m)])
    rmse = torch.cat([result.rmse.view(n, m).nan_to_num(nan=torch.inf), torch.full((n, 1), torch.inf)], dim=1).amin(1)
    return MatchResult(rmse.where(rmse.isfinite(), torch.nan), result.timed_out, result.failed)
