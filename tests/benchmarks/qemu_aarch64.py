"""Do the exported files answer on an Arm processor what they answer here? LiteRT's aarch64 wheel under qemu.

    python tests/benchmarks/qemu_aarch64.py runs/cifar10/export --pictures holiday/    # 5 minutes
    python tests/benchmarks/qemu_aarch64.py runs/cifar10/export --work /tmp/arm        # keep what was fetched

Needs Debian or Ubuntu on x86-64 and no root: apt fetches an arm64 Python (the distribution's own) and
qemu-user-static, pip fetches the aarch64 wheels of the versions in constraints.txt, all into the folder
--work (a temporary folder by default). The same function, `answers`, then runs on both sides, on the same
pixels. XNNPACK chooses its kernels by the processor: `max,sme=off` has the int8 matrix instructions of a
recent phone, cortex-a76 the dot product of most phones, cortex-a53 neither. SME is off, since Debian 12's
qemu 7.2 computes its int8 products wrongly (2 of 20 the same; qemu 10.0 computes them rightly).

Expected: the same top-1 on all pictures for every file. The exit code is 1 if that is not so.

Found with qemu 7.2 on a CIFAR-10 model (6 blocks of width 64), two held-out pictures of each class: 20 of
20 for float32, float16, int8, int8_static, int4 and int8_full, as max,sme=off, cortex-a76 and cortex-a53.
The largest difference of a probability: 4e-7 in float32 and float16, 0.0007 in int8_static, 0.008 in int8
and int4, 0.012 in int8_full (three of its steps of 1/256).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("ai-edge-litert", "numpy")
# What qemu may play, and the number of the part that it says it is.
CPUS = {"max,sme=off": "0xd0b", "cortex-a76": "0xd0b", "cortex-a53": "0xd03"}
# LiteRT looks at the processors to choose kernels. qemu would show it those of this machine, where it
# crashes; a file below qemu's root comes first.
PROCESSORS = {
    "proc/cpuinfo": "processor : 0\nCPU implementer : 0x41\nCPU architecture: 8\nCPU variant : 0x4\n"
    "CPU part : {part}\nCPU revision : 0\n",
    **{f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present", "kernel_max")},
    "sys/devices/system/cpu/cpu0/topology/cluster_cpus_list": "0\n",
}
TAGS = [f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)] + ["manylinux2014_aarch64"]


def answers(path, pictures):
    """float32 [N, num_classes] of uint8 [N, H, W, 3]. NumPy and LiteRT alone, for the Python inside qemu."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    run = interpreter.get_signature_runner("serving_default")
    into, out = run.get_input_details()["image"], run.get_output_details()["probability"]
    rows = []
    for picture in pictures:
        pixels = picture[None].astype(np.float32)
        if into["dtype"] != np.float32:
            scale, zero = into["quantization"]
            pixels = np.clip(np.round(pixels / scale + zero), 0, 255).astype(into["dtype"])
        row = run(image=pixels)["probability"][0].astype(np.float32)
        if out["dtype"] != np.float32:
            scale, zero = out["quantization"]
            row = (row - zero) * np.float32(scale)
        rows.append(row)
    return np.stack(rows)


def command(*words, **more):
    """Run it; what it says is shown only when it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def fetch_system(work, part):
    """An arm64 Debian with Python, and qemu, unpacked in `work`. Returns (qemu, root, version of Python)."""
    apt, root, host = work / "apt", work / "root", work / "host"
    for folder in (apt / "lists/partial", apt / "archives/partial", root, host):
        folder.mkdir(parents=True, exist_ok=True)
    (apt / "status").write_text("")  # nothing is installed there yet
    options = [
        *("APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Install-Recommends=0"),
        *(f"Dir::State={apt}", f"Dir::State::status={apt}/status", f"Dir::Cache={apt}"),
        *("Debug::NoLocking=1", "APT::Sandbox::User="),
    ]
    ours = ["apt-get", *(f"-o{option}" for option in options)]
    command(*ours, "update")
    command(*ours, "install", "--yes", "--download-only", "python3", "libstdc++6")
    for package in (apt / "archives").glob("*.deb"):
        command("dpkg", "-x", package, root)
    for name, text in PROCESSORS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.format(part=part))
    command("apt-get", "download", "qemu-user-static", cwd=host)
    for package in host.glob("*.deb"):
        command("dpkg", "-x", package, host)
    python = next(path.name for path in (root / "usr/bin").glob("python3.*") if path.name[8:].isdecimal())
    return host / "usr/bin/qemu-aarch64-static", root, python


def fetch_wheels(site, python):
    constraints = (ROOT / "constraints.txt").read_text()
    lines = [re.search(rf"(?m)^{name}==\S+", constraints)[0] for name in WHEELS]
    platforms = [word for tag in TAGS for word in ("--platform", tag)]
    command(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", site),
        *("--only-binary=:all:", "--python-version", python.removeprefix("python"), *platforms, *lines),
    )
    return lines


def inside_qemu(work, pictures, files, cpu):
    """({name: float32 [N, num_classes]}, versions, seconds a picture) from the aarch64 LiteRT."""
    qemu, root, python = fetch_system(work, CPUS[cpu])
    site = work / "site"
    versions = fetch_wheels(site, python)
    np.save(work / "pictures.npy", pictures)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONHOME": str(root / "usr")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "ARMV8"}
    start = time.time()
    emulated = [qemu, "-cpu", cpu, "-L", root, root / "usr/bin" / python]
    said = command(*emulated, Path(__file__).resolve(), "--inside", work, *files, env=environment)
    seconds = (time.time() - start) / len(pictures) / len(files)
    found = {path.name: np.load(work / f"{path.stem}.npy") for path in files}
    return found, [f"{said.strip()} {python}", *versions], seconds


def sample(options, size):
    from mediapipe_client import pictures_in, random_pictures

    if not options.pictures:
        return random_pictures(options.count, size, seed=2)
    pictures = pictures_in(options.pictures, size)
    chosen = np.random.default_rng(0).permutation(len(pictures))[: options.count]
    return pictures[np.sort(chosen)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="an export directory of a model of pictures")
    parser.add_argument("--pictures", help="a folder of pictures, instead of random ones")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--cpu", default="max,sme=off", choices=CPUS, help="that qemu plays")
    parser.add_argument(
        "--work", type=Path, help="where to put what is fetched; a temporary folder by default"
    )
    options = parser.parse_args()

    from keras_vit.export.verification.runners import load_runner

    files = sorted(options.directory.resolve().glob("*.tflite"))
    if not files:
        raise SystemExit(f"{options.directory} has no .tflite file.")
    pictures = sample(options, load_runner(files[0]).image_size)
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        theirs, versions, seconds = inside_qemu(work, pictures, files, options.cpu)
    print(f"{', '.join(versions)}, -cpu {options.cpu}: {len(pictures)} pictures, {seconds:.1f} s each")
    print(f"{'file':<22}{'same top-1':>12}{'num_classes named':>15}{'max difference in probability':>31}")
    failed = False
    for path in files:
        ours, arm = answers(path, pictures), theirs[path.name]
        named = arm.argmax(axis=1)
        # Two classes may be equally probable, in uint8 above all: either of them is the right answer.
        same = ours[np.arange(len(ours)), named] == ours.max(axis=1)
        failed |= not same.all()
        difference = np.abs(ours - arm).max()
        agreeing = f"{same.sum()} of {len(same)}"
        print(f"{path.name:<22}{agreeing:>12}{len(set(named.tolist())):>15}{difference:>31.2g}")
    return int(failed)


def inside():
    """What the emulated Python runs: --inside WORK FILE ..."""
    import platform

    work, files = Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
    pictures = np.load(work / "pictures.npy")
    for path in files:
        np.save(work / f"{path.stem}.npy", answers(path, pictures))
    print(platform.machine())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside()
    else:
        sys.exit(main())
