"""What needs no model imports none of what models need: it is answered at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

pytestmark = pytest.mark.processes

HEAVY = {"torch", "pymatgen", "matgl", "ray", "numpy", "scipy", "ase", "pyarrow", "safetensors", "huggingface_hub"}
CONFIGURED = {"pydantic", "yaml"}
"""What it takes to read a configuration, which is more than help takes."""

WATCHED = """\
import json, sys
from omatg_ray.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

SERVER = """\
import os, sys
import omatg_ray.config
for line in sys.stdin:
    folder, words = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["-c", *words.split()]
    exec(os.environ["WATCHED"])
    sys.stdout.flush()
    os._exit(0)
"""
"""Carries out commands in forks, so that what it takes to read a configuration is imported once."""

SWEEP = "config: {}\nspace: {learner.lr: {uniform: [0, 1]}}\ntrails: 3\n"
BASELESS = (
    "config: {base: nothing, reward: {potential: bundled}}\nspace: {learner.lr: {uniform: [0.1, 1]}}\ntrials: 3\n"
)

CASES = [
    ("train nothing.yaml", "cannot read config nothing.yaml"),
    ("train iteratons=3", "did you mean iterations?"),
    ("train seed=x", "seed: "),
    ("train base=bundled", "reward.potential: name a MatGL potential"),
    ("train base=nothing reward.potential=bundled", "nothing: no model here"),
    ("train base=bundled reward.potential=./no", "potential folder no does not exist"),
    ("train base=bundled reward.potential=bundled data.file=no.csv", "no.csv does not exist"),
    ("train base=bundled reward.potential=bundled policy.schedule_from=no", "policy.schedule_from: schedule 'no'"),
    ("train base=bundled reward.potential=bundled run=taken", "taken already holds a run"),
    ("train --resume nothing", "there is no run to resume in nothing"),
    ("check no.csv", "no.csv does not exist"),
    ("check sweep.yaml --model nothing", "nothing: no model here"),
    ("check sweep.yaml --potential ./no", "potential folder no does not exist"),
    ("check sweep.yaml --drop-unknown", "--drop-unknown: add --model or --potential"),
    ("pretrain", "data: name a file to split"),
    ("pretrain data.file=sweep.yaml data.drop_unknown=true", "data.drop_unknown: a base may be trained on any element"),
    ("pretrain data.file=no.csv", "no.csv does not exist"),
    ("pretrain data.file=sweep.yaml run=taken", "taken already holds a run"),
    ("evaluate nothing --data bundled", "nothing: no model here"),
    ("evaluate bundled --data no.csv", "no.csv does not exist"),
    ("evaluate bundled --data bundled --out x.vasp", "cannot write x.vasp: it holds one crystal"),
    ("evaluate bundled --data bundled --format vasp", "--format is for the crystals that --out writes"),
    ("evaluate bundled --data bundled --potential ./no", "potential folder no does not exist"),
    ("evaluate bundled --data bundled --schedule no", "schedule 'no': there is no such folder"),
    ("evaluate bundled --data bundled --reward no.yaml", "--reward no.yaml: there is no such file"),
    ("evaluate --structures no.xyz --reward sweep.yaml", "no.xyz does not exist"),
    ("evaluate bundled --data bundled --ray rollout.wrkers=2", "did you mean ray.rollout.workers?"),
    ("generate nothing --formula NaCl", "nothing: no model here"),
    ("generate bundled --formula NaCl --potential ./no", "potential folder no does not exist"),
    ("generate bundled --formula Xx3", "names 'Xx', which is not an element"),
    ("generate bundled --formula NaCl --out crystals", "cannot write crystals: it has no suffix"),
    ("generate bundled --formula NaCl -n 2 --out POSCAR --potential none", "cannot write POSCAR: it holds one crystal"),
    ("generate bundled --formula NaCl --z 600", "1200 atoms; a cell may hold 1000 at most"),
    ("relax no.cif", "no.cif does not exist"),
    ("relax sweep.yaml --potential ./no", "potential folder no does not exist"),
    ("relax sweep.yaml --out crystals", "cannot write crystals: it has no suffix"),
    ("ablate nothing.yaml", "cannot read config nothing.yaml"),
    ("tune nothing.yaml", "cannot read config nothing.yaml"),
    ("tune sweep.yaml", "did you mean trials?"),
    ("tune baseless.yaml", "nothing: no model here"),
    ("tune --resume nothing", "there is no sweep to resume in "),
    ("report nothing", "there is no run in nothing to report on"),
    ("info nothing", "info: nothing is none of"),
    ("export-omatg nothing --out new", "nothing: no model here"),
    ("import-omatg a.ckpt b.yaml --out new", "a.ckpt cannot be read"),
    ("config nothing", "no key starts with 'nothing'"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER]
    environment = os.environ | {"WATCHED": WATCHED}
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, env=environment, text=True) as process:
        yield process
        process.stdin.close()


def watched(words: str, folder: Path, server: subprocess.Popen[str] | None = None) -> tuple[int, set[str], str]:
    """Exit code, modules that were imported, and the error of a command; by a fork of the server, if there is one."""
    (folder / "taken").mkdir()
    (folder / "taken" / "config.yaml").touch()
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "baseless.yaml").write_text(BASELESS)
    if server is None:
        command = [sys.executable, "-c", WATCHED, *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        out, err = done.stdout, done.stderr
    else:
        server.stdin.write(f"{folder}\t{words}\n")
        server.stdin.flush()
        assert server.stdout.readline() == "0\n"
        out, err = (folder / "out").read_text(), (folder / "err").read_text()
    code, modules = json.loads(out.splitlines()[-1])
    return code, set(modules), err


@pytest.mark.parametrize(("words", "error"), CASES)
def test_a_refusal_that_needs_no_model_imports_nothing_for_one(
    tmp_path: Path, server: subprocess.Popen[str], words: str, error: str
) -> None:
    code, modules, said = watched(words, tmp_path, server)
    assert code in (1, 2)
    assert error in said and said.startswith("omatg-ray: ") and len(said.splitlines()) <= 2
    assert not modules & HEAVY


@pytest.mark.parametrize("words", ["--help", "train --help", "evaluate --help", "tune --help"])
def test_help_imports_nothing_but_the_standard_library(tmp_path: Path, words: str) -> None:
    code, modules, _ = watched(words, tmp_path)
    assert code == 0
    assert not modules & (HEAVY | CONFIGURED)


@pytest.mark.parametrize("words", ["config", "config sweep", "config ablation", "info", "info base"])
def test_what_can_be_set_and_what_is_bundled_is_listed_without_a_model(tmp_path: Path, words: str) -> None:
    code, modules, _ = watched(words, tmp_path)
    assert code == 0
    assert not modules & HEAVY
