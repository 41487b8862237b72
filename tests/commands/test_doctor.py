from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from omatg_ray.assets import seal
from omatg_ray.commands import doctor
from omatg_ray.commands.doctor import Finding, run_check
from omatg_ray.errors import OmatgRayError
from tests.commands.conftest import Command, Workshop


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed, also where the tests run without that."""
    needs(monkeypatch, ["torch>=2.0", "numpy>=1.0"])


def needs(monkeypatch: pytest.MonkeyPatch, requires: list[str], python: str = ">=3.11") -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: requires)
    monkeypatch.setattr(metadata, "metadata", lambda _: {"Requires-Python": python})


def states(out: str) -> dict[str, str]:
    lines = [line for line in out.splitlines() if line[19:27].strip() in ("ok", "warning", "fails")]
    return {line[:18].strip(): line[19:27].strip() for line in lines}


@pytest.mark.processes
def test_everything_works(assets: Path, workshop: Workshop, command: Command) -> None:
    done = command("doctor", "--no-ray", "--potential", workshop.potential)
    assert done.code == 0, done.out + done.err
    assert done.out.splitlines()[-1] == "everything that `omatg-ray train` needs works"
    said = states(done.out)
    assert {said[f"bundled {name}"] for name in ("crystals", "potential", "base")} == {"ok"}
    assert "gives its 1 known energies" in done.out and "of 2 crystals valid" in done.out
    assert said["Python"] == said["packages"] == said["TensorBoard"] == "ok"
    assert "Ray" not in said


def test_a_damaged_asset_fails_by_name_and_the_rest_is_still_checked(assets: Path, command: Command) -> None:
    weights = assets / "potential" / "state.pt"
    weights.write_bytes(weights.read_bytes() + b"x")
    done = command("doctor", "--no-ray")
    done.refuses("failed checks: bundled potential;", code=1)
    said = states(done.out)
    assert said["bundled potential"] == "fails"
    assert said["bundled crystals"] == said["bundled base"] == said["TensorBoard"] == "ok"
    assert str(weights) in done.out and "git checkout" in done.out
    assert "everything" not in done.out


def test_a_bundled_potential_without_known_energies(assets: Path, command: Command) -> None:
    (assets / "potential" / "known_energies.json").unlink()
    seal(assets / "potential")
    done = command("doctor", "--no-ray")
    done.refuses("bundled potential", code=1)
    assert "does not list known_energies.json" in done.out


WITHOUT = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
from omatg_ray.cli import main
sys.exit(main(["doctor", "--no-ray"]))
"""


@pytest.mark.processes
@pytest.mark.parametrize("gone", [["torch"], ["torch", "packaging", "pydantic", "numpy", "tqdm", "yaml"]])
def test_it_works_where_packages_are_missing(gone: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *gone],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(doctor.__file__).parents[2])},
    )
    said = states(done.stdout)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert next(iter(said)) == "packages"
    assert said["PyTorch"] == said["bundled reinforced"] == said["TensorBoard"] == "fails"
    assert {"memory", "disk", "bundled crystals"} <= said.keys()
    line = next(line for line in done.stdout.splitlines() if line.startswith("PyTorch"))
    assert "torch" in line and "pip install" in line


def test_packages_are_missed_without_the_one_that_reads_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    needs(monkeypatch, ["torch>=2", "no-such-thing[extra]>=1", "unasked>=1; extra == 'test'"])
    state, text = doctor.packages()
    assert state == "fails" and "not installed: no-such-thing; pip install" in text


def test_another_potential_that_is_not_there(assets: Path, command: Command, tmp_path: Path) -> None:
    done = command("doctor", "--no-ray", "--potential", tmp_path / "nowhere")
    done.refuses(str(tmp_path / "nowhere"), code=1)


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = metadata.version("torch")
    needs(monkeypatch, ["torch>=1000", "numpy>=1", "no-such-thing>=1; extra == 'test'"])
    state, text = doctor.packages()
    assert state == "warning" and f"torch {torch} (>=1000)" in text and "numpy" not in text
    needs(monkeypatch, ["torch>=1000", "no-such-thing>=1"])
    state, text = doctor.packages()
    assert state == "fails" and "not installed: no-such-thing;" in text and "pip install" in text


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    needs(monkeypatch, [], python=">=4.0")
    state, text = doctor.python()
    assert state == "fails" and "needs >=4.0" in text


def test_a_package_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "PACKAGE", "no-such-package")
    check = run_check("packages", doctor.packages)
    assert check.state == "warning" and "no-such-package is not installed" in check.text


GIB = 2**30


def group(root: Path, version: int, limit: int | str, used: int, cache: int) -> Path:
    """The files of a container with this limit."""
    v2 = {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {cache}"}
    v1 = {
        "memory/memory.limit_in_bytes": limit,
        "memory/memory.usage_in_bytes": used,
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {cache}",
    }
    (root / "memory").mkdir()
    for name, content in (v2 if version == 2 else v1).items():
        (root / name).write_text(f"{content}\n")
    return root


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("limit", "used", "cache", "left"),
    [
        (8 * GIB, 3 * GIB, GIB, 6 * GIB),
        (64 * GIB, 0, 0, 16 * GIB),
        (2 * GIB, 3 * GIB, 0, 0),
        (2**63 - 4096, 1, 0, 16 * GIB),
    ],
)
def test_a_container_leaves_its_limit_less_what_it_uses(
    version: int, limit: int, used: int, cache: int, left: int, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {64 * 2**20} kB\nHugePages_Total: 0\nMemAvailable:   {16 * 2**20} kB\n")
    assert doctor.available_memory(meminfo, group(tmp_path, version, limit, used, cache)) == left


def test_memory_that_nothing_tells(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert doctor.available_memory(meminfo, tmp_path) is None
    meminfo.write_text("MemAvailable: 1024 kB\n")
    assert doctor.available_memory(meminfo, tmp_path) == 2**20
    assert doctor.available_memory(meminfo, group(tmp_path, 2, "max", 0, 0)) == 2**20
    (tmp_path / "memory.max").write_text("?")
    assert doctor.available_memory(meminfo, tmp_path) is None
    assert doctor.memory(None)[0] == "warning" and "unknown" in doctor.memory(None)[1]


@pytest.mark.parametrize(("gib", "state"), [(8.0, "ok"), (2.5, "warning"), (0.5, "fails")])
def test_memory(gib: float, state: str) -> None:
    found, text = doctor.memory(int(gib * 2**30))
    assert found == state and f"{gib:.1f} GiB" in text


def test_the_memory_of_this_machine() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = doctor.available_memory()
    assert free is None or 0 < free <= total


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert doctor.disk(tmp_path)[0] == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**7))
    state, text = doctor.disk(tmp_path)
    assert state == "fails" and str(tmp_path) in text
    monkeypatch.setattr("os.access", lambda *_: False)
    state, text = doctor.disk(tmp_path)
    assert state == "fails" and "is not writable" in text


def test_whatever_a_check_raises_is_what_it_says() -> None:
    def broken() -> Finding:
        raise ImportError("libfoo.so.1:\n  cannot open")

    def refused() -> Finding:
        raise OmatgRayError("do this")

    check = run_check("a", broken)
    assert (check.name, check.state, check.text) == ("a", "fails", "ImportError: libfoo.so.1: cannot open")
    check = run_check("b", refused)
    assert (check.state, check.text) == ("fails", "do this")


def test_a_warning_of_this_package_makes_it_one() -> None:
    def warned() -> Finding:
        warnings.warn_explicit("no minimum", UserWarning, "energy.py", 1, module="omatg_ray.reward.potential")
        warnings.warn_explicit("of a library", UserWarning, "x.py", 1, module="matgl.utils")
        return "ok", "loads"

    check = run_check("potential", warned)
    assert (check.state, check.text) == ("warning", "no minimum")


@pytest.mark.processes
def test_a_ray_that_hangs_or_dies() -> None:
    state, text = doctor.ray_starts("import time; time.sleep(60)", seconds=0.5)
    assert state == "fails" and "within 0.5 s" in text and "ray.*" in text
    state, text = doctor.ray_starts("raise SystemExit('no room on this machine')")
    assert state == "fails" and "no room on this machine" in text


@pytest.mark.long  # how a run starts one: tests/distributed/test_own_ray.py
@pytest.mark.processes
def test_ray_starts() -> None:
    assert doctor.ray_starts() == ("ok", "starts and has room for an actor")
