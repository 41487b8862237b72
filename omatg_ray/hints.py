"""Hints for mistyped keys: the key that was probably meant, also where another program calls it something else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

SAME_MEANING: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "lr learningrate stepsize",
        "batchsize batch bs minibatch minibatchsize trainbatchsize",
        "epochs epoch trainepochs",
        "iterations iters iter updates trainsteps",
        "seed randomseed randomstate",
        "hidden hiddendim hiddensize hiddenchannels width dmodel embeddingdim",
        "layers depth blocks interactionblocks",
        "gradclip gradientclip gradientclipping gradientclipval clipgradnorm gradnorm maxgradnorm",
        "weightdecay l2 wd",
        "ema emadecay movingaverage",
        "warmupsteps warmup warmupiterations",
        "clip cliprange clipepsilon clipratio ppoclip",
        "klweight klcoef klcoeff klcoefficient beta",
        "entropyweight entropycoef entropycoeff entcoef",
        "groupsize generations samplesperprompt",
        "microbatchpairs microbatch microbatchsize",
        "workers processes jobs",
        "threads cputhreads",
        "tracking logger loggers reportto wandb mlflow",
        "base model checkpoint ckpt ckptpath pretrained initfrom",
        "run outputdir outdir savedir logdir output",
        "file dataset datafile datapath path",
        "train trainfile trainset",
        "val validation valfile valset valid",
        "test testfile testset",
        "splitseed dataseed",
    )
)
"""Names of the field for one thing, without what stands before or between their words (`_plain`)."""
DURATIONS = frozenset(
    ["epochs", "epoch", "iterations", "iters", "iter", "steps", "updates", "trainsteps", "trainepochs"]
)
"""Names for how long something goes on, in one unit or another."""
COUNT = re.compile(r"^(n|nb|num|number_of|total|max)_")


def same_meaning(name: str, names: Iterable[str]) -> str | None:
    """Return the one of these names that is another word for a name, as lr for learning_rate; None if there is none."""
    word = _plain(name)
    words = next((group for group in SAME_MEANING if word in group), frozenset({word}))
    matches = sorted(
        (other for other in names if _plain(other) in words), key=lambda other: (_plain(other) != word, len(other))
    )
    return matches[0] if matches else None


def same_purpose(name: str, names: Iterable[str]) -> str | None:
    """Return the one of these names that says in another unit how long something goes on; None if there is none."""
    return next((other for other in names if {_plain(name), _plain(other)} <= DURATIONS), None)


def nearest(name: str, names: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the name that was probably meant: another word for it, or one that is spelled alike; None if none is."""
    return same_meaning(name, names) or next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def hint_at(name: object, names: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """Say which of the names was probably meant; `otherwise` if none is close."""
    near = nearest(str(name), list(names), cutoff)
    return f"did you mean {near}?" if near else otherwise


def elsewhere(key: str, keys: Iterable[str], most: int = 3) -> list[str]:
    """Return the dotted keys with the last part of a key, or another word for it; those nearest to its place first.

    Args:
        key: Dotted key that does not exist.
        keys: Those that do.
        most: Largest number to return.
    """
    *above, name = key.split(".")
    found = [other for other in keys if same_meaning(name, [other.rpartition(".")[2]])]

    def distance(other: str) -> tuple[int, bool, int]:
        parts = other.split(".")
        shared = next((i for i, pair in enumerate(zip(above, parts, strict=False)) if pair[0] != pair[1]), len(above))
        return -shared, _plain(parts[-1]) != parts[-1].replace("_", ""), len(parts)

    return sorted(found, key=distance)[:most]


def _plain(name: str) -> str:
    """Return a name without a word for a count in front, underscores and case: 'num_epochs' is 'epochs'."""
    return re.sub(r"[^a-z0-9]", "", COUNT.sub("", name.lower()))
