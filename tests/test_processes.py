"""No process outlives the one that started it, however that ends. Real processes, killed with -9."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import keras_vit
import keras_vit.export
import keras_vit.mobile_demo

SECONDS = 120  # until a test gives up; what it waits for takes a fraction of a second
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}

# A process that starts another one, and so on; each says its number and then does nothing.
CHAIN = """
import sys
import time

from keras_vit.processes import start

print("here", flush=True)
if int(sys.argv[1]):
    start("chain", str(int(sys.argv[1]) - 1), start_new_session=sys.argv[1] == "2")
elif sys.argv[1:]:
    import subprocess
    subprocess.Popen(["sleep", "600"])  # of the same session
time.sleep(600)
"""
ASKING = """
from keras_vit.export.verification.workers import Worker

with Worker("busy", {}) as worker:
    print(worker.answer(), flush=True)
    for line in worker:
        pass
"""
BUSY = """
import json
import time

print(json.dumps({"ready": True}), flush=True)
while True:
    sum(range(10000))  # busy, not asleep
"""


def wait_until(true):
    end = time.monotonic() + SECONDS
    while not (found := true()):
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)
    return found


def below(process, count):
    """At least so many processes below `process`, its children's children too."""
    of = psutil.Process(process.pid)
    return wait_until(lambda: found if len(found := of.children(recursive=True)) >= count else None)


def all_gone(processes):
    def gone():
        return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    wait_until(gone)


@pytest.fixture
def run(tmp_path):
    """`run(words, **options)`: a Python process, which with all below it is gone after the test."""
    started = []

    def run(*words, **options):
        environment = {**QUIET, "PYTHONPATH": str(tmp_path)}
        process = subprocess.Popen([sys.executable, *words], env=environment, cwd=tmp_path, **options)
        started.append(process)
        return process

    yield run
    for process in started:
        for left in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            left.kill()
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()


def launch(run, folder):
    """A launcher of two workers that train on a few small pictures."""
    for name in "ab":
        (folder / "data" / "train" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((8, 8, 3), 20 * i, "uint8")).save(
                folder / "data" / "train" / name / f"{i}.png"
            )
    words = ["-m", "keras_vit.cli", "launch", "--workers", "2", "--", "train", "data", "--out", "run"]
    words += ["--variant", "Nano/4", "--image-size", "8", "--epochs", "5000"]
    return run(*words, stderr=subprocess.PIPE, text=True)


def test_workers_end_with_a_launcher_that_is_killed(run, tmp_path):
    launcher = launch(run, tmp_path)
    workers = below(launcher, 2)
    assert any("to train" in line for line in launcher.stderr)  # TensorFlow is there, and the workers meet
    launcher.kill()
    all_gone(workers)


def test_a_worker_that_is_killed_ends_the_others_and_their_launcher(run, tmp_path):
    launcher = launch(run, tmp_path)
    workers = below(launcher, 2)
    workers[1].send_signal(signal.SIGKILL)
    assert launcher.wait(SECONDS) == 128 + signal.SIGKILL
    all_gone(workers)


def test_what_a_process_started_ends_with_it_down_to_the_last(run, tmp_path):
    (tmp_path / "chain.py").write_text(CHAIN)
    first = run("-m", "chain", "2")
    found = below(first, 3)
    assert len(found) == 3  # the last of them a program of its own
    first.kill()
    all_gone(found)


def test_a_worker_of_export_and_benchmark_ends_with_who_asked_it(run, tmp_path):
    (tmp_path / "asking.py").write_text(ASKING)
    (tmp_path / "busy.py").write_text(BUSY)
    asking = run("-m", "asking", stdout=subprocess.PIPE, text=True)
    assert asking.stdout.readline() == "{'ready': True}\n"
    found = below(asking, 1)
    asking.kill()
    all_gone(found)


def test_the_module_sees_what_it_would_see_alone(run, tmp_path):
    (tmp_path / "seen.py").write_text(
        "import sys\nprint(__name__, sys.argv[1:], sys.argv[0][-7:])\nsys.exit(3)"
    )
    code = "from keras_vit.processes import start\nimport sys\nsys.exit(start('seen', 'a b', '--c').wait())"
    alone, started = (
        run(*words, stdout=subprocess.PIPE, text=True)
        for words in (["-m", "seen", "a b", "--c"], ["-c", code])
    )
    assert alone.communicate()[0] == started.communicate()[0] == "__main__ ['a b', '--c'] seen.py\n"
    assert alone.returncode == started.returncode == 3


WAYS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {
        "fork",
        "forkpty",
        "system",
        "popen",
        "posix_spawn",
        "posix_spawnp",
        "spawnv",
        "spawnl",
        "spawnvp",
    },
    "multiprocessing": {"Process", "Pool", "get_context"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}


def test_no_other_code_starts_processes():
    found = set()
    for package in (keras_vit, keras_vit.export, keras_vit.mobile_demo):
        for file in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    if node.attr in WAYS.get(node.value.id, ()):
                        found.add((file.name, f"{node.value.id}.{node.attr}"))
                elif isinstance(node, ast.ImportFrom) and node.module in (*WAYS, "concurrent.futures"):
                    found |= {(file.name, f"{node.module}.{name.name}") for name in node.names}
    found -= {place for place in found if "ThreadPoolExecutor" in place[1]}
    # The second is openssl, which makes a certificate in milliseconds. The third is the script for small
    # boards, which has LiteRT alone: its process classifies one picture and ends.
    assert found == {
        ("processes.py", "subprocess.Popen"),
        ("local_network.py", "subprocess.run"),
        ("classify.py", "multiprocessing.get_context"),
    }
