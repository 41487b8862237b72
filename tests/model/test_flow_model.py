"""`FlowModel`: files, refusals, and what a generated structure depends on."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import omatg_ray as og
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.domain import Domain
from omatg_ray.errors import ConfigError, FormulaError, ModelError
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.model.sampling import Sampling, chunks_by_pairs
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from omatg_ray.seeding import seed_of
from tests.small import SIZE, small_network

BASE = BaseDistribution(log_length_mean=(1.4, 1.5, 1.6), log_length_std=(0.1, 0.1, 0.1))
SPECIES = [[56, 22, 8, 8, 8], [11], [55, 17], [22, 8, 8], [11]]


def description(**values) -> ModelDescription:
    known = {"network": SIZE, "paths": PathSettings(cell="trigonometric"), "base_distribution": BASE}
    return ModelDescription(**(known | {"elements": ["O", "Ti"], "sizes": [3, 5]} | values))


def base_model(**values) -> FlowModel:
    return FlowModel(description(**values), small_network(0, torch.float32))


def reinforced_model(**values) -> FlowModel:
    active = {"active": ["pos"], "noise": {"pos": NoiseSettings(kind="constant", a=0.1)}}
    base, policy = (small_network(seed, torch.float32) for seed in (0, 1))
    return FlowModel(description(**(active | values)), base, nn.ModuleDict({"policy": policy}))


def close(left, right, tolerance=1e-4) -> bool:
    difference = (left.pos - right.pos + 0.5) % 1.0 - 0.5
    same = torch.equal(left.species, right.species) and torch.equal(left.n_atoms, right.n_atoms)
    return same and float(difference.abs().max()) < tolerance and torch.allclose(left.cell, right.cell, atol=tolerance)


def equal(left, right) -> bool:
    return torch.equal(left.pos, right.pos) and torch.equal(left.cell, right.cell)


# --- files ------------------------------------------------------------------------------------------------------


def test_what_it_was_trained_on_is_saved_and_what_it_generates_beyond_is_warned_of(tmp_path):
    domain = Domain.of([[22, 8, 8], [56, 22, 8, 8, 8], [11]])
    base_model(domain=domain).save(tmp_path)
    model = FlowModel.load(tmp_path)
    assert model.description.domain == domain
    with pytest.warns(
        UserWarning, match="model, 2 of 5 crystals: of its 3 training crystals none has Cs or Cl or 2 atoms"
    ):
        model.generate([*SPECIES[:4], [55]], Sampling(2))
    with pytest.warns(UserWarning, match="model: of its 3 training crystals none has Na-Ti or Na-O$"):
        model.generate([[11, 22, 8]], Sampling(2))
    for quiet in (lambda: model.generate(SPECIES, Sampling(2), judged=True), lambda: model.sample(["TiO2"], steps=2)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quiet()
    # Folders of earlier versions have no such entry.
    text = json.loads((tmp_path / "model.json").read_text())
    del text["domain"]
    (tmp_path / "model.json").write_text(json.dumps(text))
    assert FlowModel.load(tmp_path).description.domain is None


@pytest.mark.parametrize("make", [base_model, reinforced_model])
def test_save_and_load(make, tmp_path):
    model = make(schedule=LinearSchedule(pos=2.0), potential="a potential", provenance={"seed": 3, "note": ["x"]})
    model.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "weights.safetensors"}
    loaded = FlowModel.load(tmp_path)
    assert loaded.description == model.description
    for name in ("base_network", "network"):
        left, right = (getattr(m, name).state_dict() for m in (model, loaded))
        assert left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
    assert equal(
        loaded.generate(SPECIES, Sampling(5, noise="policy")), model.generate(SPECIES, Sampling(5, noise="policy"))
    )


def test_a_run_folder_is_its_best_checkpoint(tmp_path):
    best = tmp_path / "checkpoints" / "best"
    best.mkdir(parents=True)
    base_model().save(best)
    assert FlowModel.load(tmp_path).description == base_model().description


@pytest.mark.parametrize("name", ["", "missing", "file.txt"])
def test_a_folder_without_a_model_is_refused_by_name(tmp_path, name):
    (tmp_path / "file.txt").write_text("no model")
    with pytest.raises(ModelError, match=str(tmp_path / name)):
        FlowModel.load(tmp_path / name)


@pytest.mark.parametrize(
    "file, content",
    [
        ("weights.safetensors", None),
        ("weights.safetensors", b""),
        ("weights.safetensors", b"half"),
        ("model.json", b""),
        ("model.json", b'{"network": {'),
        ("model.json", b"[]"),
        ("model.json", b"\xff\xfe\x00\x01"),
        ("model.json", b"{}"),
    ],
)
def test_missing_or_torn_files_are_refused_by_name(tmp_path, file, content):
    base_model().save(tmp_path)
    path = tmp_path / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-500] if content == b"half" else content)
    with pytest.raises(ModelError, match=file):
        FlowModel.load(tmp_path)


def change_description(folder, **values):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_of_another_architecture_are_refused(tmp_path):
    base_model().save(tmp_path)
    for change in ({"hidden": 17}, {"layers": 1}, {"layers": 3}, {"frequencies": 5}):
        change_description(tmp_path, network=SIZE.model_dump() | change)
        with pytest.raises(ModelError, match="do not fit"):
            FlowModel.load(tmp_path)


def test_a_missing_tensor_or_network_is_refused(tmp_path):
    reinforced_model().save(tmp_path)
    path = tmp_path / "weights.safetensors"
    weights = load_file(path)
    for gone in ("policy.coord_out.weight", "base.csp_layer_1.layer_norm.bias"):
        save_file({k: v for k, v in weights.items() if k != gone}, path)
        with pytest.raises(ModelError, match=gone.split(".", 1)[1]):
            FlowModel.load(tmp_path)
    save_file({k: v for k, v in weights.items() if k.startswith("base.")}, path)
    with pytest.raises(ModelError):
        FlowModel.load(tmp_path)


@pytest.mark.parametrize("change", [{"format": "omatg_ray.model.9"}, {"colour": "blue"}, {"active": ["species"]}])
def test_another_format_is_refused(tmp_path, change):
    base_model().save(tmp_path)
    change_description(tmp_path, **change)
    with pytest.raises(ModelError, match=next(iter(change))):
        FlowModel.load(tmp_path)


def test_networks_and_active_fields_go_together():
    with pytest.raises(ModelError):
        FlowModel(description(active=["pos"], noise={"pos": NoiseSettings()}), small_network(0))
    with pytest.raises(ModelError):
        FlowModel(description(), small_network(0), nn.ModuleDict({"policy": small_network(1)}))


# --- sampling ---------------------------------------------------------------------------------------------------


def test_chunks_by_pairs():
    assert chunks_by_pairs([2, 2, 2, 5, 1, 1], 8) == [[0, 1], [2], [3], [4, 5]]
    assert chunks_by_pairs([3], 1) == [[0]] and chunks_by_pairs([], 8) == []


@pytest.mark.parametrize("noise", ["none", "policy"])
def test_structures_depend_on_their_index_alone(monkeypatch, noise):
    model = reinforced_model()
    together = model.generate(SPECIES, Sampling(6, noise=noise), seed=4)
    order = [3, 0, 4, 2, 1]
    shuffled = model.generate([SPECIES[i] for i in order], Sampling(6, noise=noise), seed=4, indices=order)
    assert close(shuffled, together.select(order))
    alone = model.generate([SPECIES[2]], Sampling(6, noise=noise), seed=4, indices=[2])
    assert close(alone, together.select([2]))
    monkeypatch.setattr("omatg_ray.model.flow_model.CHUNK_PAIRS", 10)
    assert close(model.generate(SPECIES, Sampling(6, noise=noise), seed=4), together)
    assert not close(together.select([1]), together.select([4]))
    assert not close(model.generate(SPECIES, Sampling(6, noise=noise), seed=5), together)


def test_an_index_for_every_structure():
    with pytest.raises(ValueError):
        base_model().generate(SPECIES, Sampling(3), indices=[0, 1])
    with pytest.raises(ValueError):
        base_model().generate(SPECIES, Sampling(3), indices=range(6))


def test_nothing_to_generate():
    assert len(base_model().generate([], Sampling(3))) == 0


def test_noise_acts_on_active_fields_alone():
    model = reinforced_model()
    quiet, noisy = (model.generate(SPECIES, Sampling(2, noise=noise)) for noise in ("none", "policy"))
    assert not close(quiet, noisy)
    # One step from the same x_0: the frozen lattice cannot have noticed.
    assert torch.allclose(quiet.cell, noisy.cell)
    base = base_model()
    assert equal(base.generate(SPECIES, Sampling(4, noise="policy")), base.generate(SPECIES, Sampling(4)))


def test_one_step_is_one_euler_step_of_the_right_networks():
    model = reinforced_model(schedule=LinearSchedule(pos=2.0, cell=1.0))
    out = model.generate([[22, 8, 8]], Sampling(2), seed=7)
    x_0 = model.generate([[22, 8, 8]], Sampling(2, schedule=LinearSchedule(pos=0.0, cell=0.0)), seed=7)
    # With slopes s the displacement is multiplied by 1 + s t at t = 0.001.
    policy, frozen = model.network, model.base_network
    start = BASE.sample([[22, 8, 8]], [seed_of(7, "structure", 0)])
    t, dt = torch.tensor(0.001), 0.998
    with torch.no_grad():
        pos, cell = policy(start, t).pos_b, frozen(start, t).cell_b
    assert close(x_0, start.replace((start.pos + dt * pos) % 1.0, start.cell + dt * cell), 1e-5)
    expected = start.replace((start.pos + dt * 1.002 * pos) % 1.0, start.cell + dt * 1.001 * cell)
    assert close(out, expected, 1e-5)


def test_a_model_that_acts_later_keeps_that_in_its_folder(tmp_path):
    """With 6 grid points and a gate at 0.7, four of five steps are the base's."""
    model = reinforced_model(acts_from=0.7)
    model.save(tmp_path)
    loaded = FlowModel.load(tmp_path)
    unreinforced = model.description.model_copy(update={"active": []})
    base = FlowModel(unreinforced, model.base_network)
    assert loaded.description.acts_from == 0.7
    # Those that always act are written as they always were: older versions read them, and keys of results stay.
    assert "acts_from" not in reinforced_model().description.model_dump_json()
    assert reinforced_model().description.acts_from == 0.0
    found = {name: each.generate(SPECIES, Sampling(6), 3) for name, each in (("gated", loaded), ("same", model))}
    assert equal(found["gated"], found["same"])
    assert not any(equal(found["gated"], each.generate(SPECIES, Sampling(6), 3)) for each in (reinforced_model(), base))
    # Where no step begins after the gate, the model is its base.
    assert equal(loaded.generate(SPECIES, Sampling(4), 3), base.generate(SPECIES, Sampling(4), 3))


def test_guidance_goes_from_the_base_through_the_model_and_beyond():
    model, count = reinforced_model(acts_from=0.4), 12
    base = FlowModel(model.description.model_copy(update={"active": []}), model.base_network)
    species = [[22, 8, 8]] * count

    def generated(*guidance: float, **more):
        return model.generate(species, Sampling(6, guidance=guidance, **more), 3)

    assert close(generated(1.0, 1.0), model.generate(species, Sampling(6), 3), 1e-5)
    assert close(generated(0.0), base.generate(species, Sampling(6), 3), 1e-5)
    rows = {weight: generated(weight) for weight in (0.0, 3.0)}
    assert not close(rows[3.0], model.generate(species, Sampling(6), 3))
    by_midpoints = {weight: generated(weight, solver="midpoint") for weight in (0.0, 3.0)}
    assert close(by_midpoints[0.0], base.generate(species, Sampling(6, solver="midpoint"), 3), 1e-5)
    assert not close(by_midpoints[3.0], by_midpoints[0.0])
    # With several weights crystals take turns by their indices: the chunks decide nothing.
    turns = Sampling(guidance=(0, 3, 3)).weights(range(count)).tolist()
    assert turns == [0.0, 3.0, 3.0] * 4
    mixed = generated(0.0, 3.0, 3.0)
    for row, weight in enumerate(turns):
        assert close(mixed.select([row]), rows[weight].select([row]), 1e-5)
    some = model.generate(species[:5], Sampling(6, guidance=(0.0, 3.0, 3.0)), 3, indices=range(7, 12), chunk_pairs=1)
    assert close(some, mixed.select(range(7, 12)), 1e-5)
    other = model.generate(species[:2], Sampling(6, guidance=(0.0, 3.0)), 3, turns=[5, 2])
    assert close(other.select([0]), rows[3.0].select([0]), 1e-5) and close(
        other.select([1]), rows[0.0].select([1]), 1e-5
    )


@pytest.mark.parametrize("guidance", [(), (float("nan"),), (1.0, float("inf"))])
def test_weights_of_guidance_are_finite_numbers(guidance):
    with pytest.raises(ModelError, match="guidance: give one or more finite weights"):
        reinforced_model().sample("TiO2", steps=3, guidance=guidance)


def test_only_a_reinforced_network_can_be_guided():
    with pytest.raises(ModelError, match="guidance: .*it is a base model; leave it out"):
        base_model().generate(SPECIES, Sampling(3, guidance=(2.0,)))
    learned = description(variant="annealing", active=["pos"], noise={"pos": NoiseSettings(kind="constant", a=0.1)})
    model = FlowModel(learned, small_network(0, torch.float32), new_modules(learned))
    with pytest.raises(ModelError, match="guidance: .*its schedule alone was learned"):
        model.sample("TiO2", steps=3, guidance=(2.0,))


def test_a_schedule_replaces_that_of_the_model():
    annealed, plain = base_model(schedule=LinearSchedule(pos=4.0)), base_model()
    schedule = LinearSchedule(pos=4.0)
    assert equal(annealed.generate(SPECIES, Sampling(5)), plain.generate(SPECIES, Sampling(5, schedule=schedule)))
    assert equal(
        annealed.generate(SPECIES, Sampling(5, schedule=LinearSchedule())), plain.generate(SPECIES, Sampling(5))
    )
    assert not close(annealed.generate(SPECIES, Sampling(5)), plain.generate(SPECIES, Sampling(5)))


def test_sample_gives_structures_of_the_formulas():
    structures = base_model().sample(["TiO2", "Ti2O4"], steps=3)
    assert [s.composition.formula for s in structures] == ["Ti1 O2", "Ti2 O4"]
    with pytest.raises(FormulaError):
        base_model().sample(["Ti(O3"], steps=3)


def test_sample_takes_a_text_as_one_formula_and_refuses_elements_that_were_never_trained():
    (structure,) = base_model().sample("TiO2", steps=3)
    assert structure.composition.formula == "Ti1 O2"
    with pytest.raises(ModelError, match="the model was never trained on Na, Cl and cannot generate NaCl; "):
        base_model().sample("NaCl", steps=3)


def test_sample_takes_the_texts_of_the_command_as_schedules():
    model = base_model(schedule=LinearSchedule(pos=4.0))
    for text, schedule in (
        ("linear:pos=5,cell=2", LinearSchedule(pos=5.0, cell=2.0)),
        ("none", LinearSchedule()),
        ("own", LinearSchedule(pos=4.0)),
    ):
        (named,), (given,) = (model.sample("TiO2", 4, which) for which in (text, schedule))
        assert named == given
    assert model.sample("TiO2", 4, "none") != model.sample("TiO2", 4, "own")
    with pytest.raises(ConfigError, match="schedule 'lniear:pos=5'"):
        model.sample("TiO2", 4, "lniear:pos=5")


def test_too_few_steps_are_refused():
    with pytest.raises(ModelError, match="steps = 1"):
        base_model().generate(SPECIES, Sampling(1))


# --- solvers and stochastic bases -------------------------------------------------------------------------------


def extrapolated(model):
    """The end of the flow from Euler steps, whose error halves when their number doubles."""
    coarse, fine = (model.generate(SPECIES, Sampling(n + 1), seed=1) for n in (300, 600))
    pos = fine.pos + (fine.pos - coarse.pos + 0.5) % 1.0 - 0.5
    return fine.replace(pos % 1.0, 2 * fine.cell - coarse.cell)


def test_solvers_agree_where_steps_are_small_and_euler_is_the_default():
    model = base_model()
    plain = model.generate(SPECIES, Sampling(5), seed=1)
    assert equal(model.generate(SPECIES, Sampling(5, solver="euler"), seed=1), plain)
    exact = extrapolated(model)
    assert not close(plain, exact, 1e-2)
    for solver in ("rk4", "dopri5"):
        assert close(model.generate(SPECIES, Sampling(20, solver=solver), seed=1), exact, 2e-4)


def test_a_frozen_field_takes_its_own_network_in_a_solver_too():
    model = reinforced_model()
    assert close(model.generate(SPECIES, Sampling(20, solver="rk4"), seed=1), extrapolated(model), 2e-4)


@pytest.mark.parametrize("solver", ["midpoint", "dopri5"])
def test_schedules_that_depend_on_steps_take_euler_steps(solver):
    limited = LinearSchedule(pos=3.0, limit=0.6)
    with pytest.raises(ModelError, match=f"^solver {solver}: the schedule depends on the length of Euler steps"):
        Sampling(5, limited, solver=solver).check(base_model())


def test_limits_are_refused_before_anything_is_generated_where_paths_bend():
    bent = base_model(paths=PathSettings(pos={"kind": "trigonometric"}))
    limited = LinearSchedule(pos=3.0, limit=0.6)
    for check in (Sampling(5, limited).check, lambda model: model.policy(limited)):
        with pytest.raises(ModelError, match="that of pos is trigonometric"):
            check(bent)


def test_noise_takes_euler_steps():
    with pytest.raises(ModelError, match="rk4.*noise"):
        reinforced_model().generate(SPECIES, Sampling(5, noise="policy", solver="rk4"))


def test_a_base_with_epsilon_is_sampled_as_its_stochastic_process():
    gamma = {"kind": "linear", "gamma": {"kind": "sqrt", "a": 0.1}, "epsilon": {"kind": "constant", "c": 0.02}}
    model = base_model(paths=PathSettings(pos=gamma, cell="linear"), schedule=LinearSchedule(pos=3.0, cell=1.0))
    policy = model.policy(sde=True)
    assert policy.active == ("pos",)
    t, dt = torch.tensor(0.4), torch.tensor(0.1)
    start = BASE.sample(SPECIES, list(range(len(SPECIES))))
    draws = torch.randn(start.pos.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        step = policy.step(start, t, dt, {"pos": draws})
        out = model.base_network(start, t)
    # OMatG's: (1 + s) b − (ε / γ) η and √(2 ε); fields without ε follow the annealed ODE.
    drift = (1 + 3 * 0.4) * out.pos_b - 0.02 / (0.1 * 0.4 * 0.6) ** 0.5 * out.pos_eta
    torch.testing.assert_close(step.displacement["pos"], 0.1 * drift + (2 * 0.02 * 0.1) ** 0.5 * draws)
    torch.testing.assert_close(step.displacement["cell"], 0.1 * (1 + 1.0 * 0.4) * out.cell_b)
    quiet, noisy = (model.generate(SPECIES, Sampling(6, noise=noise)) for noise in ("none", "policy"))
    assert not close(quiet, noisy)
    assert model.policy().active == ()


def test_another_schedule_makes_an_annealing_model_a_base_again_with_its_process():
    path = {"kind": "linear", "gamma": {"kind": "sqrt", "a": 0.1}, "epsilon": {"kind": "constant", "c": 0.02}}
    base, paths = base_model(paths=PathSettings(pos=path, cell=path)), PathSettings(pos=path, cell=path)
    learned = LearnedScheduleSettings(hidden=4, layers=1, fields=["pos"])
    what = description(
        paths=paths, variant="annealing", active=["pos"], noise={"pos": NoiseSettings()}, schedule=learned
    )
    model = FlowModel(what, base.base_network, new_modules(what))
    schedule = LinearSchedule(pos=3.0)
    for noise in ("none", "policy"):
        ours, theirs = (one.generate(SPECIES, Sampling(5, noise=noise, schedule=schedule)) for one in (model, base))
        assert equal(ours, theirs)


def test_old_names_still_work_and_old_arguments_are_refused():
    model = og.bundled_model()
    with pytest.warns(UserWarning, match=r"FlowModel\.annealing is now FlowModel\.schedule"):
        assert model.annealing is model.schedule
    with pytest.warns(UserWarning, match=r"omatg_ray\.LinearAnnealing is now LinearSchedule"):
        assert og.LinearAnnealing is og.LinearSchedule
    with pytest.raises(TypeError, match=r"give Sampling\(steps=50"):
        model.generate([[11, 17]], 50)
