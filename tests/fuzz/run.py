"""Read many damaged files, and say what came of them.

    python tests/fuzz/run.py --inputs 10000 --seed 0            # dealt out to all targets
    python tests/fuzz/run.py --target pictures --only 1234      # one input again

Right is: read, or refused with the documented exception and a message of one line. Everything else is a
fault, and its input is written to a folder: another exception, no answer in time, too much memory, two
readers that disagree, the end of the process. Each target has a process of its own, which is started again
when it ends.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import TARGETS, load_target
from fuzz.harness import FAULTS, OUTCOMES, SECONDS, limited_memory, random_of, run_one, write

START = 300  # seconds for the imports of a target's process


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="this one alone")
    parser.add_argument("--only", type=int, help="this input of --target alone, and all of what was said")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="where failing inputs go")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)  # a process of this script's own
    given = parser.parse_args()
    if given.work:
        return work(given.target, given.seed, *given.work)
    if given.only is not None:
        return again(given.target, given.seed, given.only, given.out)
    shares = {given.target: 1.0} if given.target else TARGETS
    total, faults = Counter(), 0
    print(
        f"{'target':<12}{'inputs':>8}"
        + "".join(f"{outcome:>12}" for outcome in OUTCOMES)
        + f"{'minutes':>10}"
    )
    for name, share in shares.items():
        start = time.monotonic()
        counts = Counter(fuzz(name, given.seed, round(given.inputs * share), given.out))
        total += counts
        row(name, counts, (time.monotonic() - start) / 60)
    row("all", total, None)
    faults = sum(total[outcome] for outcome in FAULTS)
    if faults:
        print(f"{faults} inputs with faults are in {given.out}")
    return 1 if faults else 0


def row(name, counts, minutes):
    cells = "".join(f"{counts[outcome]:>12}" for outcome in OUTCOMES)
    print(
        f"{name:<12}{sum(counts.values()):>8}{cells}" + (f"{minutes:>10.1f}" if minutes is not None else ""),
        flush=True,
    )


def fuzz(name, seed, count, out):
    """The outcome of each of `count` inputs, made by processes that are started again when they end."""
    done = 0
    while done < count:
        command = [
            sys.executable,
            __file__,
            "--target",
            name,
            "--seed",
            str(seed),
            "--work",
            str(done),
            str(count),
        ]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
            seconds, late = START, threading.Event()
            try:
                while True:
                    # What does not even listen to an alarm is ended from outside.
                    timer = threading.Timer(seconds, lambda end=process.kill, late=late: (late.set(), end()))
                    timer.start()
                    line = process.stdout.readline()
                    timer.cancel()
                    seconds = 2 * SECONDS
                    if not line:
                        break
                    outcome, why = json.loads(line)
                    if outcome == "ready":
                        continue
                    if outcome in FAULTS:
                        keep(name, seed, done, out, outcome, why)
                    done += 1
                    yield outcome
            finally:
                timer.cancel()
                process.kill()
                process.wait()
            if done < count:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-3:]
                if process.returncode > 0:  # an error of this script, not of what it tests
                    sys.exit("\n".join([f"{name}, input {done}: the process ended", *last]))
                outcome = "refused" if getattr(load_target(name), "contained", False) else "crash"
                outcome = "hang" if late.is_set() else outcome
                if outcome in FAULTS:
                    keep(name, seed, done, out, outcome, f"signal {-process.returncode}: {last}")
                done += 1
                yield outcome


def keep(name, seed, index, out, outcome, why):
    """Write a failing input, and what happened."""
    folder = out / f"{name}-{seed}-{index}"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = load_target(name)(Path(scratch)).make(random_of(seed, name, index))
    write({f"input/{file}": content for file, content in files.items()}, folder)
    (folder / "why.txt").write_text(f"{outcome}: {why}\n", encoding="utf-8", errors="replace")


def work(name, seed, start, stop):
    """Say the outcome of each of these inputs as a line of JSON."""
    warnings.simplefilter("ignore")
    say = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries of C write what they like
    with tempfile.TemporaryDirectory() as scratch:
        target = load_target(name)(Path(scratch) / "files")
        run_one(target, target.make(random_of(seed, name, start)))  # what is imported when it is first used
        print(json.dumps(["ready", ""]), file=say, flush=True)
        with limited_memory():
            for index in range(start, stop):
                found = run_one(target, target.make(random_of(seed, name, index)))
                print(json.dumps(found), file=say, flush=True)
    return 0


def again(name, seed, index, out):
    """One input once more, in this process, with all that it says."""
    with tempfile.TemporaryDirectory() as scratch:
        target = load_target(name)(Path(scratch) / "files")
        files = target.make(random_of(seed, name, index))
        folder = out / f"{name}-{seed}-{index}"
        write({f"input/{file}": content for file, content in files.items()}, folder)
        print(f"its files are in {folder}")
        try:
            print(target.check(files))
        except target.refusals as error:
            print(f"refused: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
