"""A mistyped key leads to the one that was meant, also under the name that other programs give it."""

from __future__ import annotations

import pytest

from omatg_ray.config import Config
from omatg_ray.errors import ConfigError
from omatg_ray.hints import COUNT, SAME_MEANING, elsewhere, nearest, same_meaning


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("pretrain.learning_rate", "pretrain.lr"),
        ("learner.learningRate", "learner.lr"),
        ("learning_rate", "pretrain.lr or learner.lr"),
        ("lr", "pretrain.lr or learner.lr"),
        ("pretrain.num_epochs", "pretrain.epochs"),
        ("pretrain.max_epochs", "pretrain.epochs"),
        ("batch_size", "pretrain.batch_size"),
        ("pretrain.network.hidden_dim", "pretrain.network.hidden"),
        ("learner.max_grad_norm", "learner.grad_clip"),
        ("objective.kl_coef", "objective.kl_weight"),
        ("n_iterations", "iterations"),
        ("dataset", "data.file"),
        ("ray.num_workers", "ray.rollout.workers or ray.reward.workers or ray.learner.workers"),
        ("rollout.iterations", "iterations"),
        ("pretrain.steps", "pretrain.epochs"),
        ("pretrain.iterations", "pretrain.epochs"),
        ("pretrain.dataset", "data.file"),
        # Typing errors, as before.
        ("iteratons", "iterations"),
        ("rollout.group_siz", "rollout.group_size"),
        ("pretrain.batchsize", "pretrain.batch_size"),
    ],
)
def test_the_key_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.load(None, [f"{key}=1"])
    assert str(error.value).endswith(f"unknown key {key}: did you mean {meant}?")


def test_what_is_like_nothing_gets_all_keys() -> None:
    with pytest.raises(ConfigError, match=r"unknown key checkpoint\.zzzzz: valid keys: every, keep"):
        Config.load(None, ["checkpoint.zzzzz=1"])


def test_a_word_that_is_only_a_little_alike_is_no_hint() -> None:
    with pytest.raises(ConfigError, match=r"unknown key pretrain\.network\.heads: valid keys: "):
        Config.load(None, ["pretrain.network.heads=8"])


def test_every_word_means_one_thing_and_can_be_found() -> None:
    words = [word for group in SAME_MEANING for word in group]
    assert len(words) == len(set(words))
    for word in words:
        assert same_meaning(word, [word]) == word and not COUNT.match(word)


def test_names_without_a_count_come_first() -> None:
    assert same_meaning("num_workers", ["max_workers", "workers"]) == "workers"
    assert nearest("workres", ["max_workers", "workers"]) == "workers"
    assert nearest("x", ["workers"]) is None
    assert elsewhere("a.b.lr", ["lr", "a.lr", "a.b.c.lr", "a.clip"]) == ["a.b.c.lr", "a.lr", "lr"]
