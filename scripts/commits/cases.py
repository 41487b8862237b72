"""What is run with both commits: short command lines, and what they need and write.

A case runs in an empty folder, always the same one, into which the inputs and the results of the cases that it needs
are copied. Both commits get those of the commit before: so the one after reads what the other one wrote.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Words = tuple[str, ...]
TINY = """\
threads: 1
workers: 0
device: cpu
base: pretrain/checkpoints/last
data: {train: crystals/train.extxyz, val: crystals/val.extxyz, test: crystals/test.extxyz}
pretrain:
  network: {hidden: 16, layers: 2, frequencies: 4, time_features: 8}
  epochs: 4
  batch_size: 8
  warmup_steps: 2
  validate_every: 2
  checkpoint_every: 2
iterations: 2
rollout: {groups: 3, group_size: 4, steps: 5}
policy:
  active: [pos, cell]
  noise: {pos: {kind: sqrt, a: 0.1668}, cell: {kind: constant, a: 0.2}}
learner: {epochs: 2, lr: 1.0e-3, microbatch_pairs: 100}
reward: {potential: bundled-prototypes}
validation: {every: 1, limit: 4}
checkpoint: {every: 1, keep: 9}
"""
SWEEP = """\
config: tiny.yaml
overrides: {iterations: 3}
space: {learner.lr: {grid: [1.0e-3, 3.0e-3]}, policy.noise.pos.a: {uniform: [0.1, 0.2]}}
search: random
trials: 1
concurrent: 1
scheduler: {kind: none}
trial: {cpus: 0.5, threads: 1}
guards: {invalid_share: null, diversity: null}
"""
ABLATION = """\
run: ablation
sets:
  few:
    model: bundled-prototypes
    val: crystals/val.extxyz
    test: crystals/test.extxyz
    potential: bundled-prototypes
    learned: {own: [annealing], bundled: [bundled-prototypes]}
steps: [10]
kinds: [linear, steps]
tuning: {limit: 2}
samples: 2
threads: 1
workers: 0
"""
REWARD = """\
from omatg_ray.reward.protocol import RewardResult


class Flat:
    name, elements = "flat", None

    def __call__(self, crystals):
        length = crystals.cell[:, 2].norm(dim=1).double()
        return RewardResult(-length, {"length": length})
"""
CRYSTALS = {"train": (24, 6), "val": (4, 6), "test": (5, 6)}
"""So many crystals of each split, of so many atoms at most."""


def write_inputs(folder: Path, root: Path) -> None:
    """Writes what all cases start from: settings, and a few of the bundled crystals of a checkout."""
    (folder / "crystals").mkdir(parents=True)
    (folder / "rewards").mkdir()
    for split, (number, most) in CRYSTALS.items():
        lines = (root / "omatg_ray" / "assets" / "crystals" / f"{split}.extxyz").read_text().splitlines(keepends=True)
        small = [frame for frame in _frames(lines) if len(frame) - 2 <= most]
        chosen = small[:: len(small) // number][:number]
        (folder / "crystals" / f"{split}.extxyz").write_text("".join(line for frame in chosen for line in frame))
    for name, text in {
        "tiny.yaml": TINY, "sweep.yaml": SWEEP, "ablation.yaml": ABLATION, "rewards/flat.py": REWARD
    }.items():  # fmt: skip
        (folder / name).write_text(text)


def _frames(lines: list[str]) -> Iterator[list[str]]:
    start = 0
    while start < len(lines):
        end = start + int(lines[start]) + 2
        yield lines[start:end]
        start = end


def printed_lines(text: str) -> list[str]:
    """Every line of what was printed."""
    return text.splitlines()


def keys_with_defaults(text: str) -> list[str]:
    """The keys of `omatg-ray config`, without their descriptions."""
    return [line for line in text.splitlines() if line[:1].strip()]


def options(text: str) -> list[str]:
    """The options that a help names."""
    return sorted(set(re.findall(r"--[\w-]+", text)))


@dataclass(frozen=True)
class Case:
    """Command lines of the package, and what they write.

    Attributes:
        name: Names the case and, without `writes`, the folder that it writes.
        commands: The words after `python -m omatg_ray`; after `python`, where the first is `-c`.
        needs: Cases whose results are there when it begins.
        writes: Files and folders that are its results.
        status: Exit status that all commands have.
        prepare: Changes the folder before the first command.
        ray: Whether actors work.
        interrupt_at: As soon as a command has printed this it is sent Ctrl-C, and nothing is compared: other cases go
            on with what it left.
        promised: What of the printed text of the commit before has to be there after, where more may be; None compares
            it all.
    """

    name: str
    commands: tuple[Words, ...]
    needs: tuple[str, ...] = ()
    writes: tuple[str, ...] | None = None
    status: int = 0
    prepare: Callable[[Path], None] | None = None
    ray: bool = False
    interrupt_at: str | None = None
    promised: Callable[[str], list[str]] | None = None

    @property
    def results(self) -> tuple[str, ...]:
        """Files and folders that it writes."""
        return (self.name,) if self.writes is None else self.writes


NAMES = """
import omatg_ray
for name in sorted(omatg_ray.__all__):
    getattr(omatg_ray, name)
    print(name)
"""
VALUES = """
import json, pathlib, yaml, omatg_ray

def leaves(tree, key):
    if not isinstance(tree, dict) or not tree:
        yield f"{key} = {json.dumps(tree)}"
        return
    for name, value in tree.items():
        yield from leaves(value, f"{key}.{name}" if key else name)

for path in sorted(pathlib.Path("configs").glob("*.yaml")):
    try:
        tree = yaml.safe_load(omatg_ray.Config.load(path).to_yaml())
    except omatg_ray.OmatgRayError:
        continue  # of a sweep or an ablation
    for line in leaves(tree, ""):
        print(path.name, line)
"""
VERBS = (
    "pretrain", "train", "evaluate", "ablate", "tune", "generate", "import-omatg", "export-omatg", "report", "info",
    "doctor", "config",
)  # fmt: skip
UNKNOWN = "no_such_key"
"""Makes a command end after it has read its configuration, with a message about this key and any other one unknown."""


def refused(text: str) -> list[str]:
    """What was found wrong with a configuration, without the advice, which may name new keys."""
    return [line.partition(f"{UNKNOWN}:")[0] for line in text.splitlines() if "omatg-ray" in line]


def verb_of(config: Path) -> str:
    """The verb that reads a configuration of `configs/`."""
    text = config.read_text()
    for key, verb in (("space:", "tune"), ("sets:", "ablate"), ("pretrain:", "pretrain")):
        if re.search(f"^{key}", text, re.MULTILINE):
            return verb
    return "train"


def train(run: str, *keys: str) -> Words:
    """A reinforcement with tiny settings."""
    return ("train", "tiny.yaml", f"run={run}", *keys)


SHARES = ("ray.rollout.cpus=0.3", "ray.reward.cpus=0.3", "ray.learner.cpus=0.3", "rollout.groups_per_item=1")
ACTORS = ("ray.rollout.workers=2", *SHARES)
ON_RAY = "rollout.workers=2,rollout.cpus=0.4,reward.cpus=0.4"
GAMMA = "{kind: linear, gamma: {kind: sqrt, a: 0.05}}"
LAST = "checkpoints/last"
MEASURED = ("--data", "crystals/test.extxyz", "--potential", "bundled-prototypes", "--threads", "1", "--workers", "0")


def changed_model(source: str, out: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Copies a model, with another description."""

    def prepare(work: Path) -> None:
        description = json.loads((work / source / "model.json").read_text())
        change(description)
        (work / out).mkdir()
        (work / out / "model.json").write_text(json.dumps(description))
        shutil.copy(work / source / "weights.safetensors", work / out)

    return prepare


def _perov(description: dict[str, Any]) -> None:
    """The lattices that OMatG knows as those of perov_5, without which nothing is exported."""
    cell = description["base_distribution"]["cell"]
    cell |= {"log_length_mean": [1.419227957725525] * 3, "log_length_std": [0.07268335670232773] * 3}


def masked_species(work: Path) -> None:
    """Makes a model that generates species of the tiny base: the mask is row 0 of its embedding, before hydrogen."""
    _masked_description(work)
    with safe_open(work / "pretrain" / LAST / "weights.safetensors", "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    embedding, bias = "base.node_embedding.weight", "base.type_out.bias"
    weights[embedding] = weights[embedding][[0, *range(len(weights[embedding]))]].contiguous()
    # Of the elements that the potential knows, some common ones.
    likely = [number - 1 for number in (3, 8, 9, 11, 12, 16, 17, 19)]
    weights[bias] = weights[bias].fill_(-99.0).index_fill_(0, torch.tensor(likely), 0.0)
    save_file(weights, work / "de_novo" / "weights.safetensors", metadata)


def _generates(description: dict[str, Any]) -> None:
    description["network"]["mask"] = True
    description["paths"]["species"] = {"kind": "mask"}
    description |= {"elements": [], "sizes": []}
    description.pop("domain", None)  # commits before it refuse the key


_masked_description = changed_model(f"pretrain/{LAST}", "de_novo", _generates)


def without_second_half(work: Path) -> None:
    """Leaves of a pretraining what there was after two of its four epochs, as if it had been killed then."""
    checkpoints = work / "pretrain" / "checkpoints"
    shutil.rmtree(checkpoints / "epoch_000004")
    for link in ("best", "last"):
        (checkpoints / link).unlink()
        (checkpoints / link).symlink_to("epoch_000002")


def cases(configs: list[str], root: Path) -> list[Case]:
    """All cases.

    Args:
        configs: Names of the configurations of the commit before.
        root: Folder in which they lie.
    """
    return [*interface(configs, root), *pretrainings(), *reinforcements(), *on_actors(), *resumed(), *uses(), *sweeps()]


def interface(configs: list[str], root: Path) -> Iterator[Case]:
    """What others rely on: names, keys, options, configurations."""
    yield Case("names", (("-c", NAMES),), writes=(), promised=printed_lines)
    prefixes = ("", "ablation", "sweep")
    yield Case(
        "keys", tuple(("config", *filter(None, [name])) for name in prefixes), writes=(), promised=keys_with_defaults
    )
    yield Case("options", tuple((verb, "--help") for verb in VERBS), writes=(), promised=options)
    yield Case("values", (("-c", VALUES),), writes=(), promised=printed_lines)
    lines = tuple((verb_of(root / name), f"configs/{name}", f"{UNKNOWN}=1") for name in configs)
    yield Case("configs", lines, writes=(), status=2, promised=refused)
    yield Case("info", (("info",), ("info", "bundled-prototypes")), writes=())


def pretrainings() -> Iterator[Case]:
    """Base models."""
    yield Case("pretrain", (("pretrain", "tiny.yaml", "run=pretrain", "base=null"),))
    paths = [f"pretrain.paths.{name}={GAMMA}" for name in ("pos", "cell")]
    yield Case("pretrain_gamma", (("pretrain", "tiny.yaml", "run=pretrain_gamma", "base=null", *paths),))
    workers = ("ray.pretrain.workers=2", "ray.pretrain.cpus=0.5")
    yield Case("pretrain_ray", (("pretrain", "tiny.yaml", "run=pretrain_ray", "base=null", *workers),), ray=True)


def reinforcements() -> Iterator[Case]:
    """Policies, rewards and shortcuts, each in one process."""
    base = ("pretrain",)
    yield Case("train", (train("train", "policy.annealing={pos: 2.0, cell: 1.0}"),), base)
    schedule = ("policy.variant=annealing", "policy.schedule.features=[atoms, steps]", "rollout.steps=[5, 4]")
    yield Case("annealing", (train("annealing", *schedule, "learner.lr=1e-2"),), base)
    annealed = ("policy.annealing_from=annealing", "policy.active=[pos]")
    yield Case("annealed", (train("annealed", *annealed),), ("pretrain", "annealing"))
    score = ("base=pretrain_gamma", "policy.variant=score", "objective.distillation_weight.pos=0.01")
    yield Case("score", (train("score", *score),), ("pretrain_gamma",))
    noise = ("policy.noise.pos={kind: learned, a: 0.3, hidden: 8, layers: 1}", "objective.entropy_weight.pos=0.1")
    shaped = ("advantage.shaping=none", "advantage.clip_std=2", "advantage.diversity_weight=0.5")
    yield Case("noise", (train("noise", *noise, *shaped),), base)
    yield Case(
        "species", (train("species", "base=de_novo"),), base, prepare=masked_species, writes=("species", "de_novo")
    )
    weights = "reward.weights={energy: 1, crmse: 0.5, non_triclinic: 0.2, volume: 0.1, flat: 0.1}"
    rewards = (weights, "reward.volume.target=20", "reward.relax_steps=2", "reward.second_potential=bundled-prototypes")
    own = "reward.custom={flat: {class: 'flat:Flat', invalid: -30, path: rewards}}"
    yield Case("rewards", (train("rewards", *rewards, own),), base)
    shortcuts = ("rollout.learn_from=2", "rollout.precision=bfloat16", "rollout.shared_start=true")
    yield Case("shortcuts", (train("shortcuts", *shortcuts),), base)
    gradient = ("objective.reward_gradient={transitions: 2}", "rollout.group_size=1", "policy.acts_from=0.3")
    yield Case("reward_gradient", (train("reward_gradient", *gradient),), base)
    yield Case("staleness", (train("staleness", "rollout.max_staleness=1", "iterations=3"),), base)


def on_actors() -> Iterator[Case]:
    """Reinforcement on Ray."""
    base = ("pretrain",)
    yield Case("actors", (train("actors", *ACTORS),), base, ray=True)
    yield Case("learners", (train("learners", *ACTORS, "ray.learner.workers=2"),), base, ray=True)
    stale = ("rollout.max_staleness=1", "iterations=3", "ray.rollout.max_workers=3")
    yield Case("staleness_actors", (train("staleness_actors", *ACTORS, *stale),), base, ray=True)


def resumed() -> Iterator[Case]:
    """Runs that go on with other code than they began with."""
    yield Case(
        "resume_pretrain",
        (("pretrain", "--resume", "pretrain"),),
        ("pretrain",),
        writes=("pretrain",),
        prepare=without_second_half,
    )
    for name, keys, others in (
        ("train", (), ("pretrain",)),
        ("annealing", (), ("pretrain",)),
        ("score", (), ("pretrain_gamma",)),
        ("noise", (), ("pretrain",)),
        ("species", (), ()),
        ("staleness", (), ("pretrain",)),
    ):
        more = "iterations=4" if name == "staleness" else "iterations=3"
        yield Case(f"resume_{name}", (("train", "--resume", name, more, *keys),), (*others, name), writes=(name,))
    line = ("train", "--resume", "actors", "iterations=3")
    yield Case("resume_actors", (line,), ("pretrain", "actors"), writes=("actors",), ray=True)


def uses() -> Iterator[Case]:
    """What is done with models."""
    yield Case(
        "evaluate",
        (
            ("evaluate", f"train/{LAST}", *MEASURED, "--steps", "4", "--json", "one.json", "--out", "one.extxyz"),
            ("evaluate", "pretrain", f"train/{LAST}", *MEASURED, "--steps", "4,6", "--samples", "2", "--to", "several"),
            ("evaluate", f"score/{LAST}", *MEASURED, "--steps", "4", "--noise", "policy", "--json", "score.json"),
            ("evaluate", "species/checkpoints/last", *MEASURED, "--steps", "4", "--json", "species.json"),
        ),
        ("pretrain", "train", "score", "species"),
        writes=("one.json", "one.extxyz", "several", "score.json", "species.json"),
    )
    many = ("--steps", "4", "--samples", "2", "--block", "2", "--ray", ON_RAY, "--to", "on_ray")
    measure = (
        "evaluate",
        f"train/{LAST}",
        "--data",
        "crystals/test.extxyz",
        "--potential",
        "bundled-prototypes",
        *many,
    )
    yield Case("evaluate_ray", (measure,), ("train",), writes=("on_ray",), ray=True)
    relaxed = (
        "-n",
        "4",
        "--steps",
        "5",
        "--potential",
        "bundled-prototypes",
        "--relax",
        "5",
        "--threads",
        "1",
        "--workers",
        "0",
    )
    known = ("--formula", "KCl", "MgO", "--z", "1,2", *relaxed)
    yield Case(
        "generate",
        (
            ("generate", f"train/{LAST}", *known, "--out", "train.extxyz"),
            ("generate", "pretrain", *known, "--schedule", "annealing", "--seed", "3", "--out", "annealed/"),
            ("generate", "pretrain", *known, "--solver", "midpoint", "--slope-pos", "2", "--out", "midpoint.json"),
            ("generate", f"species/{LAST}", "--atoms", "3", "4", *relaxed, "--out", "species.cif"),
        ),
        ("pretrain", "train", "annealing", "species"),
        writes=("train.extxyz", "annealed", "midpoint.json", "species.cif"),
    )
    draw = (
        "generate",
        "bundled-prototypes",
        "--formula",
        "NaCl",
        "-n",
        "4",
        "--steps",
        "4",
        "--schedule",
        "bundled-prototypes",
    )
    yield Case(
        "generate_ray", ((*draw, "--block", "2", "--ray", ON_RAY, "--out", "on_ray.extxyz"),),
        writes=("on_ray.extxyz",), ray=True,
    )  # fmt: skip
    yield Case(
        "export",
        (
            ("export-omatg", "perov", "--out", "exported", "--steps", "7"),
            ("import-omatg", "exported/checkpoint.ckpt", "exported/train.yaml", "--out", "imported"),
        ),
        ("train",),
        prepare=changed_model(f"train/{LAST}", "perov", _perov),
        writes=("exported", "imported"),
    )
    yield Case(
        "report",
        (("report", "train"), ("info", "train"), ("info", "annealing")),
        ("train", "annealing"),
        writes=("train/report.html",),
    )
    yield Case("ablate", (("ablate", "ablation.yaml"),), ("annealing",), writes=("ablation",))


def sweeps() -> Iterator[Case]:
    """Ray Tune."""
    sweep = ("tune", "sweep.yaml")
    yield Case("tune", ((*sweep, "run=tune"),), ("pretrain",), ray=True)
    # Long enough to be stopped on the way.
    stopped = (*sweep, "run=stopped", "overrides.iterations=40", "overrides.validation.every=2")
    yield Case(
        "tune_stopped", (stopped,), ("pretrain",), writes=("stopped",), ray=True, status=130,
        interrupt_at="iteration 2 of 40",
    )  # fmt: skip
    yield Case(
        "resume_tune", (("tune", "--resume", "stopped"),), ("pretrain", "tune_stopped"), writes=("stopped",), ray=True
    )
