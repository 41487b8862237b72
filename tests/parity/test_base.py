"""The base distribution against the official implementation."""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import load_file

from omatg_ray.crystal.base import ANGLE_RANGE, BaseDistribution, InformedCell, Normal
from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters
from omatg_ray.seeding import generator


def test_cell_from_parameters(shared):
    arrays = load_file(shared / "parity" / "base_cells.safetensors")
    parameters = arrays["f64/lengths_angles"]
    cells = cell_from_parameters(parameters[:, :3], parameters[:, 3:])
    torch.testing.assert_close(cells, arrays["f64/lattice"], atol=1e-10, rtol=0)


def test_drawn_cells_are_in_standard_orientation(shared):
    cells = load_file(shared / "parity" / "base_cells.safetensors")["sampled_examples_f64/lattice"]
    torch.testing.assert_close(cell_from_parameters(*cell_parameters(cells)), cells, atol=1e-6, rtol=0)


def test_statistics_of_draws(shared):
    parameters = json.loads((shared / "parity" / "base_distributions.json").read_text())
    assert tuple(parameters["angle_range_degrees"]) == ANGLE_RANGE
    recorded = json.loads((shared / "parity" / "base_cells.json").read_text())
    informed = parameters["informed_lattice"][recorded["dataset"]]
    lengths_of = InformedCell(log_length_mean=tuple(informed["log_mean"]), log_length_std=tuple(informed["log_std"]))
    base = BaseDistribution(cell=lengths_of)
    n = recorded["number_of_samples"]
    _, cells = base.draw(torch.ones(n, dtype=torch.long), Layout(torch.ones(n, dtype=torch.long)), generator("parity"))
    lengths, angles = cell_parameters(cells.double())
    logs = lengths.log()
    width, spread = informed["log_std"][0], (ANGLE_RANGE[1] - ANGLE_RANGE[0]) / math.sqrt(12)
    # Five standard errors of the difference of two samples.
    five = 5 * math.sqrt(2 / n)

    def close(actual, name, tolerance):
        difference = actual - torch.tensor(recorded[name], dtype=torch.float64)
        assert float(difference.abs().max()) < tolerance, name

    close(logs.mean(0), "mean_log_lengths", five * width)
    close(logs.std(0), "std_log_lengths", five * width / math.sqrt(2))
    close(angles.mean(0), "mean_angles", five * spread)
    close(angles.std(0), "std_angles", five * spread / math.sqrt(2))
    close(angles.min(0).values, "min_angles", 0.3)
    close(angles.max(0).values, "max_angles", 0.3)


def test_defaults_of_normal_distributions(shared):
    parameters = json.loads((shared / "parity" / "base_distributions.json").read_text())
    for name in ("position_normal_default", "cell_normal_default"):
        ours = Normal()
        assert {"loc": ours.loc, "scale": ours.scale} == parameters[name]
