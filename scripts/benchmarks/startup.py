"""Cost of starting: imports of each kind of actor, and the time until the first trajectory is back.

    python scripts/benchmarks/startup.py runs/base POTENTIAL --rollout 1 --reward 1

Imports are timed in fresh interpreters, the best of several. Then a local Ray (or that of RAY_ADDRESS) starts
a learner, rollout and reward actors, and rolls out and scores one group of 16 trajectories over 50 grid points.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from omatg_ray.distributed.actor_set import start_actors
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.distributed.training_backend import RayTrainingBackend
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.weighted import Weighted
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings, RolloutSettings
from omatg_ray.rl.work import plan_iteration

ACTOR = "import omatg_ray.distributed.workers"
IMPORTS = {
    "Python alone": "pass",
    "omatg_ray": "import omatg_ray",
    "Ray": "import ray",
    "PyTorch": "import torch",
    "rollout and learner actor": ACTOR,
    "reward actor": f"{ACTOR}, matgl.apps.pes, matgl.models, omatg_ray.reward.energy, "
    "omatg_ray.reward.worker_functions",
}


def seconds_to_run(code: str, repeats: int) -> float:
    """Return the seconds of a fresh interpreter for a line of code, the best of several."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="model or run folder")
    parser.add_argument("potential", help="MatGL potential")
    parser.add_argument("--rollout", type=int, default=1, help="rollout actors")
    parser.add_argument("--reward", type=int, default=1, help="reward actors")
    parser.add_argument(
        "--cpus", type=float, default=0.1, help="CPUs that each actor reserves; all compute with one thread"
    )
    parser.add_argument("--repeats", type=int, default=3, help="fresh interpreters for each import")
    options = parser.parse_args()

    print(f"{'import':<28}{'seconds':>8}")
    for name, code in IMPORTS.items():
        print(f"{name:<28}{seconds_to_run(code, options.repeats):>8.2f}", flush=True)

    imported, start = seconds_to_run(f"import {Path(__file__).stem}", options.repeats), time.perf_counter()
    base = FlowModel.load(options.base)
    noise = {"pos": NoiseSettings(kind="sqrt", a=0.1668)}
    description = base.description.model_copy(update={"active": ["pos"], "noise": noise})
    model = FlowModel(description, base.base_network, new_modules(description))
    loaded = time.perf_counter()
    reward = MatGLEnergy(options.potential)
    print(
        f"\nthis process: model {loaded - start:.2f} s, potential {time.perf_counter() - loaded:.2f} s (read and tried)"
    )

    share = {"cpus": options.cpus, "threads": 1}
    settings = RaySettings.model_validate(
        {
            "rollout": {"workers": options.rollout, **share},
            "reward": {"workers": options.reward, **share},
            "learner": share,
        }
    )
    torch.set_num_threads(1)
    until_staffed = time.perf_counter() - start
    rollout = RolloutSettings(groups=1, group_size=16, steps=50)
    (item,) = plan_iteration(rollout, [[56, 22, 8, 8, 8]], 0, 0)
    roles = {
        "learner": (model, ObjectiveSettings(), LearnerSettings()),
        "rollout": (model,),
        "reward": (Scorers(Weighted({"energy": (1.0, reward)}), reward), 10.0),
    }
    with start_actors(settings, roles, progress=False) as staff:
        crew = RayTrainingBackend(staff, model, ObjectiveSettings())
        crew.submit([item], version=0)
        crew.collect(0)
        timings = crew.timings()
    print(f"cluster joined or started     {staff.startup['startup_cluster']:6.2f} s")
    for actor in staff.info:
        imports = ", ".join(name for name in actor["imports"] if name != "torch")
        print(
            f"  {actor['role'] + ' ' + str(actor['index']):<12}ready after {actor['ready_seconds']:6.2f} s  {imports}"
        )
    print(f"all actors ready, after that  {staff.startup['startup_actors']:6.2f} s")
    rolled, scored = timings["time_rollout"], timings["time_reward"]
    print(f"first trajectory, after that  {rolled:6.2f} s  (its reward {scored:.2f} s later)")
    total = imported + until_staffed + timings["startup_first_trajectory"]
    print(
        f"from the command to the first trajectory {total:.1f} s, of which {imported:.1f} s are this process's imports"
    )


if __name__ == "__main__":
    main()
