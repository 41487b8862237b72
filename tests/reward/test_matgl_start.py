"""MatGL starts quickly, and is MatGL all the same."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omatg_ray.reward.matgl_start import import_matgl, smooth_bessel_functions
from omatg_ray.reward.potential import load_potential

FRESH = """\
import json, pickle, sys
from pathlib import Path
potential = pickle.loads(Path(sys.argv[1]).read_bytes())
found = {"name": potential.name, "before": "lightning" in sys.modules}
import matgl
found["missing"] = not hasattr(matgl, "nothing")
found["trainer"] = matgl.MGLPotentialTrainer.__module__
from matgl.utils.training import PotentialLightningModule
import lightning
found["module"] = issubclass(PotentialLightningModule, lightning.LightningModule)
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("max_n", "cutoff"), [(1, 4.0), (3, 5.0), (4, 4.5), pytest.param(5, 4.0, marks=pytest.mark.long), (3, 6.0)]
)
def test_radial_functions_are_those_of_matgl_to_the_bit(max_n: int, cutoff: float) -> None:
    import_matgl()
    from matgl.utils.maths import _get_lambda_func

    distances = torch.linspace(0.3, cutoff, 20_000)
    theirs = _get_lambda_func(max_n, cutoff)
    ours = smooth_bessel_functions(max_n, cutoff)
    assert len(ours) == len(theirs) == max_n
    for got, expected in zip(ours, theirs, strict=True):
        assert torch.equal(got(distances), expected(distances))
        # and but for the last of 15 digits in double precision
        torch.testing.assert_close(got(distances.double()), expected(distances.double()), rtol=1e-12, atol=1e-12)


def test_radial_functions_are_orthogonal_and_smooth_at_the_cutoff() -> None:
    """Orthonormal over r² dr, by the trapezoidal rule; value and slope vanish at the cutoff."""
    cutoff = 4.5
    r = torch.linspace(1e-6, cutoff, 200_001, dtype=torch.float64, requires_grad=True)
    values = torch.stack([function(r) for function in smooth_bessel_functions(4, cutoff)])
    overlap = torch.trapezoid((values[:, None] * values * r**2).detach(), r.detach())
    torch.testing.assert_close(overlap, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-8)
    assert values[:, -1].abs().max() < 1e-12
    for value in values:
        (slope,) = torch.autograd.grad(value.sum(), r, retain_graph=True)
        assert slope[-1].abs() < 1e-12


def test_the_bundled_potential_has_these_functions() -> None:
    module = load_potential("bundled")._module
    functions = next(layer.funcs for layer in module.modules() if hasattr(layer, "funcs"))
    assert [function.args for function in functions] == [ours.args for ours in smooth_bessel_functions(4, 4.5)]


@pytest.mark.long
@pytest.mark.processes
def test_matgl_is_whole_but_for_its_training_which_is_imported_when_asked_for(tmp_path: Path) -> None:
    """Also where another process unpickles what holds a potential, as actors do."""
    file = tmp_path / "potential.pickle"
    file.write_bytes(pickle.dumps(load_potential("bundled")))
    done = subprocess.run([sys.executable, "-c", FRESH, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "name": "bundled", "before": False, "missing": True, "trainer": "matgl.utils.training", "module": True,
    }  # fmt: skip
