"""Run the same short command lines with the code of two commits, and compare everything that they write.

    scripts/compare_commits HEAD                        files of the checkout against the last commit
    scripts/compare_commits v1 v2 --keep /tmp/compared  two commits; v1 is not run again for another v2
    scripts/compare_commits HEAD --only train,resume_train

Weights, metrics, evaluations and generated crystals must be equal bit for bit; times are left out. The second commit
reads and continues the runs, sweeps and models that the first one wrote. Names, keys, defaults, options and
configurations of the first commit must exist in the second, which may have more. Prints a line per case; exit status 1
if any differs, 2 if a commit cannot be run at all.

A commit that renames keys or changes words is compared without these:

    scripts/compare_commits HEAD --no-texts --renamed policy.annealing=policy.fixed_schedule
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cases import Case, cases, write_inputs
from checkouts import ROOT, CheckoutError, Code, Outcome, check_out, commit_of
from differences import folder_difference

FILES, PRINTED, RECORD = "files", "printed", "record.json"
"""Names in the result folder of a case: files it wrote, output it printed, and record of its duration."""


class FailedCase(Exception):
    """A command ended with an unexpected status, or did not write what it should."""


@dataclass(frozen=True)
class Side:
    """One of the two commits.

    Attributes:
        code: Its checkout.
        results: Folder with one folder for each case that was run.
    """

    code: Code
    results: Path


class Place:
    """The folder in which all cases run, one after the other.

    Both commits use the same folder, because runs write absolute paths into their files.

    Args:
        folder: Path of the folder.
        inputs: Its contents at the start of each case.
    """

    def __init__(self, folder: Path, inputs: Path) -> None:
        self._folder, self._inputs = folder, inputs

    def clear(self, *contents: Path) -> Path:
        """Empty the folder and copy the inputs and other contents there."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for source in (self._inputs, *contents):
            shutil.copytree(source, self._folder, symlinks=True, dirs_exist_ok=True)
        return self._folder

    def run(self, case: Case, code: Code, needs: Path, out: Path) -> float:
        """Run a case, move its results to `out` and return the seconds it took.

        Raises:
            FailedCase: A command failed, or a result is missing.
        """
        work = self.clear(*(needs / name / FILES for name in case.needs))
        if case.prepare is not None:
            case.prepare(work)
        shutil.rmtree(out, ignore_errors=True)
        for name in (FILES, PRINTED):
            (out / name).mkdir(parents=True)
        seconds = 0.0
        for number, words in enumerate(case.commands, start=1):
            done = code.run([*(() if words[0] == "-c" else ("-m", "omatg_ray")), *words], work, case.interrupt_at)
            seconds += done.seconds
            if done.status != case.status:
                raise FailedCase(f"command {number} ended with {done.status}: {_last_words(done)}")
            (out / PRINTED / f"{number}.out").write_text(_said(done, code))
        for name in case.results:
            if not (work / name).exists():
                raise FailedCase(f"wrote no {name}")
            (out / FILES / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(work / name, out / FILES / name)
        return seconds


def _said(done: Outcome, code: Code) -> str:
    """Return the output without progress and the path of the code; of stderr, only the package's messages."""
    lines = [line.rpartition("\r")[2] for line in done.err.splitlines()]
    messages = "".join(f"{line}\n" for line in lines if line.startswith(("warning:", "omatg-ray:")))
    return (done.out + messages).replace(str(code.folder), "CODE")


def _last_words(done: Outcome) -> str:
    lines = (done.err.strip() or done.out.strip() or "nothing was said").splitlines()
    return lines[-1][-500:]


def fingerprint(case: Case, inputs: Path, needed: Sequence[str]) -> str:
    """Hash everything but the code that decides a case's results; `needed` are the hashes of the cases it needs."""
    # Results also contain paths: that of the environment, and that of the working folder, beside the inputs.
    parts = [sys.prefix, str(inputs), repr((case.name, case.commands, case.writes, case.interrupt_at)), *needed]
    parts += [path.read_text() for path in sorted(inputs.rglob("*")) if path.is_file()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Comparison:
    """Two commits whose cases are run and compared.

    Args:
        before: The commit that counts as right; its results are kept and reused.
        after: The other commit.
        place: Folder in which the cases run.
        inputs: Inputs of the cases.
        listed: All cases by name.
        renamed: New names of configuration keys by their old ones.
        texts: Whether to compare pages, pictures and printed text, too.
    """

    def __init__(
        self,
        before: Side,
        after: Side,
        place: Place,
        inputs: Path,
        listed: dict[str, Case],
        renamed: dict[str, str],
        texts: bool,
    ) -> None:
        self._before, self._after, self._place, self._inputs, self._cases = before, after, place, inputs, listed
        self._renamed, self._texts = renamed, texts

    def prepare(self, case: Case) -> tuple[str, float]:
        """Run a case with the commit before, unless its results exist.

        Returns:
            Fingerprint of the case, and the seconds it took, now or earlier.

        Raises:
            FailedCase: The case failed, or one that it needs did.
        """
        needed = [self.prepare(self._cases[name])[0] for name in case.needs]
        made_of = fingerprint(case, self._inputs, needed)
        out = self._before.results / case.name
        record = out / RECORD
        if record.exists() and (found := json.loads(record.read_text()))["made_of"] == made_of:
            return made_of, found["seconds"]
        seconds = self._place.run(case, self._before.code, self._before.results, out)
        record.write_text(json.dumps({"made_of": made_of, "seconds": seconds}))
        return made_of, seconds

    def difference(self, case: Case) -> tuple[str | None, float, float]:
        """Return the first difference (None if there is none) and the seconds of both commits."""
        try:
            _, before = self.prepare(case)
        except FailedCase as error:
            return f"before: {error}", 0.0, 0.0
        out = self._after.results / case.name
        try:
            after = self._place.run(case, self._after.code, self._before.results, out)
        except FailedCase as error:
            return f"after: {error}", before, 0.0
        return self._compare(case, self._before.results / case.name, out), before, after

    def _compare(self, case: Case, before: Path, after: Path) -> str | None:
        if case.promised is None:
            parts = (
                folder_difference(before / part, after / part, self._renamed, self._texts) for part in (FILES, PRINTED)
            )
            return next((found for found in parts if found is not None), None)
        for path in sorted((before / PRINTED).iterdir()):
            ours, theirs = (case.promised(one.read_text()) for one in (path, after / PRINTED / path.name))
            for old, new in self._renamed.items():
                ours = [re.sub(rf"\b{re.escape(old)}\b", new, line) for line in ours]
            lost = [line for line in ours if line not in set(theirs)]
            if lost:
                return f"{path.name}: not there after: {lost[0]}"
        return None


def chosen(listed: dict[str, Case], only: str | None) -> list[Case]:
    """Return the cases to run: all that are compared, or those named.

    Raises:
        CheckoutError: A name is unknown.
    """
    compared = {name: case for name, case in listed.items() if case.interrupt_at is None}
    names = list(compared) if only is None else only.split(",")
    unknown = [name for name in names if name not in compared]
    if unknown:
        raise CheckoutError(f"there is no case {', '.join(unknown)}; --list shows what there is")
    return [compared[name] for name in names]


def _side(folder: Path, commit: str | None, work: Path, actors: bool) -> Side:
    """Check out one side into a folder.

    Raises:
        CheckoutError: A package other than that of the checkout is imported.
    """
    code = Code(folder / "code", folder / "cache")
    check_out(commit, code.folder)
    code.refuse_other(work, actors)
    return Side(code, folder / "results")


def compare(
    before: str, after: str | None, folder: Path, only: str | None, renamed: dict[str, str], texts: bool
) -> bool:
    """Run and compare the cases, and print a line for each.

    Args:
        before: A commit.
        after: Another commit; None for the files of the checkout.
        folder: Working folder; existing results of `before` are reused.
        only: Names of cases, separated by commas; None for all.
        renamed: New names of configuration keys by their old ones.
        texts: Whether to compare pages, pictures and printed text, too.

    Returns:
        Whether all cases are equal.

    Raises:
        CheckoutError: A revision is not a commit, another package is imported, or a case is unknown.
    """
    commits = commit_of(before), None if after is None else commit_of(after)
    first = folder / commits[0][:12]
    check_out(commits[0], first / "code")
    configs = first / "code" / "configs"
    listed = {case.name: case for case in cases(sorted(path.name for path in configs.glob("*.yaml")), configs)}
    asked = chosen(listed, only)
    inputs = folder / "inputs"
    shutil.rmtree(inputs, ignore_errors=True)
    write_inputs(inputs, first / "code")
    shutil.copytree(configs, inputs / "configs")
    place = Place(folder / "work", inputs)
    actors = any(case.ray for case in asked)
    one = _side(first, commits[0], place.clear(), actors)
    other = _side(folder / "after", commits[1], place.clear(), actors)
    print(f"before: {commits[0][:12]}, after: {commits[1][:12] if commits[1] else 'the files of the checkout'}")
    print(f"{'case':20} {'seconds':>15}")
    comparison = Comparison(one, other, place, inputs, listed, renamed, texts)
    differ, spent = [], [0.0, 0.0]
    for case in asked:
        found, *seconds = comparison.difference(case)
        differ += [] if found is None else [case.name]
        spent = [sum(pair) for pair in zip(spent, seconds, strict=True)]
        print(f"{case.name:20} {seconds[0]:7.1f} {seconds[1]:7.1f}  {found or 'equal'}", flush=True)
    summary = f"{len(differ)} of {len(asked)} differ: {', '.join(differ)}" if differ else f"all {len(asked)} are equal"
    print(f"{'in all':20} {spent[0]:7.1f} {spent[1]:7.1f}  {summary}")
    return not differ


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the commits and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare_commits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", nargs="?", metavar="BEFORE", help="commit that counts as right")
    parser.add_argument("after", nargs="?", metavar="AFTER", help="other commit (default: the files of the checkout)")
    parser.add_argument("--only", metavar="NAME,...", help="only these cases")
    parser.add_argument("--list", action="store_true", help="list the cases and compare nothing")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep everything there, and reuse what BEFORE already wrote there"
    )
    parser.add_argument("--no-texts", action="store_true", help="do not compare pages, pictures and printed text")
    parser.add_argument(
        "--renamed", metavar="OLD=NEW", action="append", default=[], help="a configuration key's new name (repeatable)"
    )
    options = parser.parse_args(arguments)
    renamed = [words.partition("=") for words in options.renamed]
    if not all(old and new for old, _, new in renamed):
        parser.error("write --renamed OLD=NEW, with dotted keys")
    if options.list:
        configs = ROOT / "configs"
        for case in cases(sorted(path.name for path in configs.glob("*.yaml")), configs):
            for words in case.commands if case.interrupt_at is None else ():
                print(f"{case.name:20} {'python -c ...' if words[0] == '-c' else ' '.join(words)}")
        return 0
    if options.before is None:
        parser.error("name the commit before: scripts/compare_commits BEFORE [AFTER]")
    with ExitStack() as stack:
        temporary = None if options.keep else stack.enter_context(tempfile.TemporaryDirectory(prefix="commits-"))
        folder = (options.keep or Path(str(temporary))).resolve()
        try:
            new_names = {old: new for old, _, new in renamed}
            equal = compare(options.before, options.after, folder, options.only, new_names, not options.no_texts)
            return 0 if equal else 1
        except CheckoutError as error:
            parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
