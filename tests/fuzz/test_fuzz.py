"""A few damaged files of every kind; run.py reads as many as one likes."""

import warnings
from collections import Counter

import pytest

from fuzz import TARGETS, load_target
from fuzz.harness import FAULTS, GROWTH, Difference, limited_memory, random_of, run_one

INPUTS = {"pictures": 150, "zips": 100, "tables": 40, "checkpoints": 120, "json": 20, "tflite": 30}
SEED = 17
MEMORY = [1 << 30]  # what a process has had, one number after the other


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name, tmp_path, capfd):
    target, faults, seen = load_target(name)(tmp_path / "files"), [], Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with limited_memory():
            for index in range(INPUTS[name]):
                outcome, said = run_one(target, target.make(random_of(SEED, name, index)))
                seen[outcome] += 1
                if outcome in FAULTS:
                    faults.append(f"input {index}: {outcome}: {said}")
    assert faults == [], f"python tests/fuzz/run.py --target {name} --seed {SEED} --only INPUT shows one"
    assert {"accepted", "refused"} <= set(seen), "all of one kind show little"
    assert seen["one alone"] <= INPUTS[name] / 50


def test_the_same_seed_makes_the_same_input(tmp_path):
    for name in TARGETS:
        first, second = (load_target(name)(tmp_path / str(i)) for i in range(2))
        assert first.make(random_of(1, name, 5)) == second.make(random_of(1, name, 5)), name
        assert first.make(random_of(1, name, 5)) != first.make(random_of(2, name, 5)), name


@pytest.mark.parametrize(
    ("outcome", "does"),
    [
        ("foreign", lambda: 1 / 0),
        ("foreign", lambda: _raise(ValueError("two\nlines"))),
        ("foreign", lambda: _raise(RecursionError())),
        ("difference", lambda: _raise(Difference("they are 9 of 255 apart"))),
        ("hang", lambda: _for_ever()),
        ("memory", lambda: MEMORY.append(MEMORY[-1] + 2 * GROWTH)),
        ("refused", lambda: _raise(ValueError("one line"))),
        ("accepted", lambda: "accepted"),
    ],
)
def test_every_fault_is_seen(outcome, does, monkeypatch):
    class Target:
        refusals = (ValueError,)

        def check(self, files):
            result = does()
            return result if isinstance(result, str) else "accepted"

    monkeypatch.setattr("fuzz.harness.SECONDS", 1)
    monkeypatch.setattr("fuzz.harness._most_memory", lambda: MEMORY[-1])
    assert run_one(Target(), {})[0] == outcome


def _raise(error):
    raise error


def _for_ever():
    while True:
        try:
            while True:
                pass
        except Exception:
            pass
