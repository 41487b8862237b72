"""The configuration: YAML, overrides, and messages that name the key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml

from omatg_ray.commands.ablate_settings import AblationSettings
from omatg_ray.config import Config
from omatg_ray.errors import ConfigError
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.rl.settings import LearnFrom
from omatg_ray.settings import documented_keys
from omatg_ray.tree import override
from omatg_ray.tune.settings import SweepSettings
from tests.conftest import ROOT


def load(*overrides: str) -> Config:
    return Config.load(None, overrides)


def test_yaml_there_and_back(tmp_path):
    config = load(
        "data.file=crystals.csv",
        "data.val_compositions=200",
        "data.test_compositions=0.25",
        "policy.active=[pos, cell]",
        "policy.noise={pos: {kind: sqrt, a: 0.2}, cell: {kind: constant, a: 0.3}}",
        "policy.fixed_schedule.pos=5",
        "objective.reference_noise.pos={kind: constant, a: 0.1}",
        "threads=2",
        "base=some/model",
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = Config.load(path)
    assert again == config
    assert again.to_yaml() == config.to_yaml()


@pytest.mark.parametrize("key", ["run", "base", "data.file", "policy.schedule_from", "reward.hull.entries"])
def test_a_path_that_begins_like_a_home_is_read_back(tmp_path, key):
    config = Config.load(None, [f"{key}=./~x"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert Config.load(tmp_path / "config.yaml") == config
    assert override("run", config.run) == ("run=./~x" if key == "run" else f"run={config.run}")


def test_the_word_for_what_is_bundled_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    config = load("base=bundled", "reward.potential=bundled").resolved()
    assert (config.base, config.reward.potential) == ("bundled", "bundled")
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert Config.load(path).resolved() == config


def test_a_folder_of_that_name_is_named_by_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    config = load("base=./bundled", "reward.potential=./bundled").resolved()
    assert (config.base, config.reward.potential) == (tmp_path / "bundled", str(tmp_path / "bundled"))


def test_the_run_folder_is_named_after_the_file(tmp_path):
    path = tmp_path / "perov5.yaml"
    path.write_text("seed: 3\n")
    assert str(Config.load(path).run) == "runs/perov5" and Config.load(path).seed == 3
    assert str(Config.load(path, ["run=elsewhere"]).run) == "elsewhere"
    path.write_text("run: here\n")
    assert str(Config.load(path).run) == "here"


def test_an_empty_file_gives_the_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert Config.load(path, ["run=runs/run"]) == Config()


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("rollout: {groups: 4, steps: 20}\n")
    config = Config.load(path, ["rollout.groups=8", "rollout.groups=9", " learner.lr = 1e-4"])
    assert (config.rollout.groups, config.rollout.steps, config.learner.lr) == (9, 20, 1e-4)


def test_an_optional_group_may_be_set_key_by_key(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("policy: {fixed_schedule: null}\n")
    assert Config.load(path).policy.fixed_schedule is None
    assert Config.load(path, ["policy.fixed_schedule.pos=5"]).policy.fixed_schedule == LinearSchedule(pos=5.0)
    assert load("policy.fixed_schedule.cell=1.5").policy.fixed_schedule == LinearSchedule(cell=1.5)
    assert load("policy.fixed_schedule.cell=1.5", "policy.fixed_schedule=null").policy.fixed_schedule is None


@pytest.mark.parametrize(
    "override, words",
    [
        ("rollout.group=3", ["unknown key rollout.group:", "did you mean rollout.groups?"]),
        ("sede=3", ["unknown key sede:", "did you mean seed?"]),
        ("pretrain.network.hiden=3", ["pretrain.network.hiden", "did you mean pretrain.network.hidden?"]),
        ("policy.fixed_schedule.po=3", ["policy.fixed_schedule", "did you mean pos?"]),
        ("policy.noise.pos={kid: sqrt}", ["policy.noise.pos.kid", "did you mean policy.noise.pos.kind?"]),
        ("learner.zzz=1", ["unknown key learner.zzz", "valid keys: epochs, lr"]),
        ("policy.noise.species={a: 1}", ["policy.noise.species", "'pos' or 'cell'"]),
        ("objective.clip=2", ["objective.clip", "less than 1", "got 2"]),
        ("rollout.steps=1", ["rollout.steps", "at least 2"]),
        ("learner.lr=.nan", ["learner.lr", "finite"]),
        ("learner.lr=-1", ["learner.lr", "greater than 0"]),
        ("data.val_compositions=0", ["data.val_compositions", "greater than 0"]),
        ("rollout.groups=many", ["rollout.groups", "integer", "'many'"]),
        ("rollout.groups=2.5", ["rollout.groups", "2.5"]),
        ("rollout=5", ["rollout:", "got 5"]),
        ("policy.active=[]", ["policy.active"]),
        ("policy.active=[pos, pos]", ["names a field twice"]),
        ("policy.active=[cell]", ["'cell'", "noise.cell.kind"]),
        ("advantage.shaping=cliip", ["advantage.shaping", "'clip'", "'cliip'"]),
    ],
)
def test_what_is_wrong_with_a_key(override, words):
    with pytest.raises(ConfigError) as caught:
        load(override)
    for word in words:
        assert word in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        load("rollout.groups=0", "learner.lrr=1")
    assert "rollout.groups" in str(caught.value) and "learner.lr?" in str(caught.value)


def test_one_problem_is_told_once():
    with pytest.raises(ConfigError) as caught:
        load("data.val_compositions=abc")
    assert str(caught.value).count("data.val_compositions") == 1


@pytest.mark.parametrize("override", ["rollout.groups", "=5", "", "rollout.groups=[1"])
def test_what_is_no_override(override):
    with pytest.raises(ConfigError, match="override"):
        load(override)


def test_a_value_is_no_group():
    with pytest.raises(ConfigError, match="seed is a value"):
        load("seed=3", "seed.more=4")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.file=a.csv", "data.train=b.csv"], "not both"),
        (["data.train=b.csv"], "go together"),
        (["data.train=b.csv", "data.val=c.csv"], "go together"),
    ],
)
def test_one_file_or_three(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)
    assert load("data.train=a", "data.val=b", "data.test=c").data.file is None


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="missing.yaml"):
        Config.load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        Config.load(tmp_path)
    for content, message in [(b"a: [", "not valid YAML"), (b"- 1\n", "mapping"), (b"\xff\xfe\x00", "bad.yaml")]:
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            Config.load(path)


def test_the_file_is_named_in_the_message(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rollout: {groups: 0}\n")
    with pytest.raises(ConfigError, match="mine.yaml"):
        Config.load(path)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Config().rollout.groups = 3


def test_every_key_is_documented_with_its_default():
    rows = {key: (default, text) for key, default, text in documented_keys(Config())}
    assert all(text for _, text in rows.values())
    assert rows["rollout.groups"][0] == "16" and rows["policy.active"][0] == "[pos]"

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]

    undocumented = [
        key
        for key in leaves(yaml.safe_load(Config().to_yaml()))
        if not any(key == row or key.startswith(f"{row}.") for row in rows)
    ]
    assert undocumented == []


def test_a_group_given_in_part_keeps_the_rest():
    config = load("objective.kl_weight.cell=0.5", "objective.policy_weight.cell=2")
    assert (config.objective.kl_weight.pos, config.objective.kl_weight.cell) == (1e-3, 0.5)
    assert (config.objective.policy_weight.pos, config.objective.policy_weight.cell) == (2.3, 2.0)


def test_a_group_with_nothing_below_it_is_the_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("rollout:\nobjective:\n  kl_weight:\n")
    assert Config.load(path, ["run=runs/run"]) == Config()


def test_a_number_of_compositions_is_whole():
    assert load("data.val_compositions=200").data.val_compositions == 200
    with pytest.raises(ConfigError, match=r"data.val_compositions.*whole"):
        load("data.val_compositions=1.5")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["reward.weights={crmse: 1}"], "no reward with a weight has a gradient"),
        (["reward.relax_steps=5"], "no reward with a weight has a gradient"),
        (["policy.variant=annealing"], "schedules are learned by policy gradient alone"),
        (["policy.variant=score"], "nothing of policy.variant=score"),
        (["policy.noise.pos.kind=learned"], "nothing of policy.noise.pos.kind=learned"),
        (["objective.reward_gradient.transitions=10", "rollout.steps=[20, 10]"], "have 9 Euler steps"),
        (
            ["rollout.group_size=1", "reward.weights={energy: 1, crmse: 1}"],
            "crmse has no gradient .* at least 2",
        ),
    ],
)
def test_reward_gradients_that_cannot_be(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load("objective.reward_gradient={transitions: 3}", *overrides)


def test_flow_matching_trains_velocities() -> None:
    for kind in ("annealing", "score"):
        with pytest.raises(
            ConfigError,
            match=f"objective.flow_matching: it trains velocities.*{kind}; set objective.flow_matching=null",
        ):
            load("objective.flow_matching={}", f"policy.variant={kind}")
    with pytest.raises(ConfigError, match=r"objective.flow_matching.weight: it is 0 for all active fields \(pos\)"):
        load("objective.flow_matching={weight: {pos: 0, cell: 1}}", "policy.active=[pos]")
    assert load("objective.flow_matching={}").objective.flow_matching is not None
    assert load().objective.flow_matching is None
    with pytest.raises(ConfigError, match=r"objective.replay.weight: it is 0 .*objective.replay=null"):
        load("objective.replay={weight: {pos: 0, cell: 1}}", "policy.active=[pos]")


def test_a_replay_relaxes_with_a_potential() -> None:
    without = ("reward.potential=null", "reward.weights={volume: 1}", "reward.volume.target=20")
    with pytest.raises(ConfigError, match="objective.replay.relax: relaxing needs a potential"):
        load("objective.replay={}", *without)
    assert load("objective.replay={relax: 0}", *without).objective.replay is not None


def test_energies_rank_known_crystals_beside_rewards_that_are_energies() -> None:
    energies = "objective.replay={relax: 0, energies: dft}"
    assert load(energies).objective.replay is not None
    with pytest.raises(ConfigError, match=r"objective\.replay: energies: they rank known crystals; set known=true"):
        load("objective.replay={relax: 0, energies: dft, known: false}")
    for weights in ("{energy: 2}", "{energy: 1, non_triclinic: 1}"):
        with pytest.raises(ConfigError, match=r"objective\.replay\.energies: .*reward\.weights={energy: 1}"):
            load(energies, f"reward.weights={weights}")


def test_what_is_learned_by_policy_gradient() -> None:
    by_gradient = "objective.reward_gradient={transitions: 3}"
    assert load().by_policy and load(by_gradient, "reward.weights={energy: 1, crmse: 0.1}").by_policy
    assert not load(by_gradient, "rollout.group_size=1", "reward.weights={energy: 1, crmse: 0}").by_policy
    with pytest.raises(ConfigError, match="take at least 2"):
        load("rollout.group_size=1")
    nothing = "objective.policy_weight={pos: 0, cell: 0}"
    assert load("objective.replay={relax: 0}").by_policy
    assert not load("objective.replay={relax: 0}", nothing, "rollout.group_size=1").by_policy
    with pytest.raises(ConfigError, match="objective.policy_weight: it is 0 for all active fields"):
        load(nothing)


def test_documented_defaults_are_those_of_the_config():
    rows = {key: default for key, default, _ in documented_keys(Config())}
    assert rows["objective.reward_gradient"] == "null" and rows["objective.reward_gradient.limit"] == "1.0"
    assert rows["rollout.learn_from.transitions"] == "(required)" and rows["rollout.learn_from.kind"] == "window"
    assert rows["objective.kl_weight.pos"] == "0.001"
    assert rows["objective.policy_weight.pos"] == "2.3"
    assert rows["advantage.shaping"] == "rank"


OLD = """\
rollout: {learn_from: {steps: 2}, steps: 9}
ray: {deadline: 60}
policy: {annealing: {pos: 2.0, cell: 1.0}, annealing_from: null}
"""


def test_keys_work_under_their_old_names(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    with pytest.warns(UserWarning, match=" is now ") as caught:
        config = Config.load(tmp_path / "old.yaml")
    assert config.rollout.learn_from == LearnFrom(transitions=2) and config.ray.request_timeout == 60
    assert config.policy.fixed_schedule == LinearSchedule(pos=2.0, cell=1.0) and config.policy.schedule_from is None
    assert sorted(str(one.message) for one in caught) == [
        "policy.annealing is now policy.fixed_schedule; the old name still works",
        "ray.deadline is now ray.request_timeout; the old name still works",
        "rollout.learn_from.steps is now rollout.learn_from.transitions; the old name still works",
    ]


FORMER = sorted((ROOT / "tests" / "former_configs").glob("*.yaml"))
"""The files of configs/ as they were before keys were renamed."""
FORMER_NAMES = {
    "learn_from: {steps: ": ("learn_from: {transitions: ", "rollout.learn_from.steps"),
    "  annealing: {": ("  fixed_schedule: {", "policy.annealing"),
    "  schedule: {": ("  learned_schedule: {", "policy.schedule"),
}


@pytest.mark.parametrize("path", FORMER, ids=lambda path: path.stem)
def test_configurations_written_before_keys_were_renamed_mean_the_same(path: Path, tmp_path: Path) -> None:
    text, old_keys = path.read_text(), set()
    for old, (new, key) in FORMER_NAMES.items():
        if old in text:
            text, old_keys = text.replace(old, new), old_keys | {key}
    (tmp_path / path.name).write_text(text)
    settings = {"sweep": SweepSettings, "ablation": AblationSettings}.get(path.stem.split("_")[0], Config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = settings.load(tmp_path / path.name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert settings.load(path) == expected
    assert {str(one.message).split(" is now ")[0] for one in caught} == old_keys


def test_former_configurations_have_former_names() -> None:
    assert sum(any(old in path.read_text() for old in FORMER_NAMES) for path in FORMER) > 2


def test_settings_of_a_learned_schedule_work_under_their_old_name() -> None:
    """`policy.schedule` was the name of what is `policy.learned_schedule` today, and is no other key's."""
    words = ["policy.variant=annealing", "policy.schedule.hidden=8", "policy.schedule={shared: false}"]
    with pytest.warns(UserWarning, match=r"policy\.schedule.* is now policy\.learned_schedule"):
        config = Config.load(None, [*words, "policy.schedule.hidden=8"])
    assert (config.policy.learned_schedule.hidden, config.policy.learned_schedule.shared) == (8, False)


@pytest.mark.parametrize("override", ["ray.deadline=5", "ray.request_timeout=5", "ray={deadline: 5}"])
def test_overrides_win_under_either_name(tmp_path: Path, override: str) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    with pytest.warns(UserWarning, match=" is now "):
        assert Config.load(tmp_path / "old.yaml", [override]).ray.request_timeout == 5


def test_a_key_under_both_of_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("ray: {deadline: 5, request_timeout: 6}")
    with pytest.raises(ConfigError, match=r"ray\.deadline is now ray\.request_timeout, and both are given"):
        Config.load(tmp_path / "both.yaml")
