"""Are our .tflite files faster than what a person would pick instead? One run, all files, as ratios.

    python tests/benchmarks/export_peers.py --variant Ti/16 --keep runs/peers    # 224 x 224

The first run also makes the environments of the peers (see `peers.py`: 2 minutes, 4 GB). Making the files
takes 5 minutes for Ti/16, three times that for S/16 on a busy machine; --keep reuses those in a folder (all
of them: delete its `ours/` after a change of the export), and then a run takes 1 minute. All files take
turns on one thread, round by round, each runtime in a process of its own. Only our files have preprocessing
and softmax inside. The peers:

- stock: our own ViT, not folded, through TensorFlow's converter alone (dynamic range, and full int8). It
  gains from how our model is written: only the row of [CLS] through the last block, static shapes.
- keras-hub: its own ViT through its own `export(format="litert")`, which takes the converter's settings.
- onnxruntime: Hugging Face's ViT through PyTorch; dynamic int8, static QDQ of everything, and static QDQ of
  the matrix products only. We compare with the fastest of them.
- openvino: that .onnx file, int8 by NNCF for transformers; where the processor has bfloat16, OpenVINO uses it
  for the rest.

What a processor has for int8 decides. Expect for Ti/16, otherwise idle:

- Intel Xeon with AMX (5.3 ms), which XNNPACK uses: int8_static 4.39x float32, 12.0x stock full int8, 16.3x
  keras-hub's, 3.07x ONNX Runtime, 1.72x OpenVINO (another run: 4.48x, 11.0x, 14.9x, 3.12x, 1.76x); int8 1.02x
  the stock dynamic-range file, 1.31x keras-hub's; int8_mixed 1.33x stock dynamic; int8_full 6.5x stock full
  int8; phone 3.39x OpenVINO's plain Ti/16. S/16: 5.64x, 7.37x, 9.93x, 2.31x, 1.21x.
- Zen 5, AVX-VNNI (3.8 ms): int8_static 2.97x float32, 6.20x stock full int8, 9.3x keras-hub's, 2.17x ONNX
  Runtime, 1.34x to 1.40x OpenVINO (three runs); phone 2.68x OpenVINO's plain Ti/16. Two thirds of int8_static
  are FULLY_CONNECTED near the processor's peak there: all the rest is 1.3 ms.
- AMD EPYC with AVX512-VNNI (7.8 ms): 3.08x float32, 4.45x stock full int8, 6.3x keras-hub's, 1.86x ONNX
  Runtime, 1.30x OpenVINO; int8 as fast as the stock dynamic-range file and 1.16x keras-hub's; int8_full 3.2x
  stock full int8.
- Intel Xeon with AVX512-VNNI (8.7 ms): 2.25x float32, 5.7x stock full int8, 7.9x keras-hub's, 1.80x ONNX
  Runtime, 1.19x OpenVINO; int8_mixed at 8.0: 2.47x float32, 1.17x stock dynamic; int8_full 4.2x stock.

All but the first, and S/16, are of files in which LayerNorm still subtracted the mean, 2% slower.
What int8 can gain at all: fully_connected.py. Sizes: int8 5.97 MB, int4 3.32.

"unsteady" means that the machine was busy: the three ways to take the ratio disagree; then believe the one
by CPU time. A peer that cannot be installed, and a profile that does not exist yet, become rows that say so.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mediapipe_client import random_pictures
from peers import peer_python
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
CLASSES = 1000
UNSTEADY = 0.05
# What each maker makes, besides our profiles; our LiteRT runs every .tflite file, others in their maker's.
FILES = {
    "phone": ["int8_static.tflite", "int8_mixed.tflite"],
    "stock": ["int8.tflite", "int8_full.tflite"],
    "keras-hub": ["float32.tflite", "int8.tflite", "int8_full.tflite"],
    "onnxruntime": [f"{f}.onnx" for f in ("float32", "int8_dynamic", "int8_static", "int8_static_matmul")],
    "openvino": ["float32.xml", "int8.xml"],
}
NEEDS = {"openvino": ("onnxruntime", "float32.onnx")}
OUR_ENVIRONMENT = ("ours", "phone", "stock")
ONNX_INT8 = tuple(f"onnxruntime {name}" for name in ("int8_dynamic", "int8_static", "int8_static_matmul"))


@dataclasses.dataclass(frozen=True)
class Claim:
    """`ours` is at least `anchor` times as fast as the fastest of `others`; None: no anchor, for interest."""

    ours: str
    others: tuple
    anchor: float | None = None


CLAIMS = (
    Claim("ours int8_static", ("ours float32",), 3.2),
    Claim("ours int8_static", ("stock int8_full",), 8.0),
    Claim("ours int8_static", ("keras-hub int8_full",)),
    Claim("ours int8_static", ("keras-hub int8",)),
    Claim("ours int8_static", ("keras-hub float32",)),
    Claim("ours int8_static", ONNX_INT8, 3.0),
    Claim("ours int8_static", ("openvino int8",), 1.5),
    Claim("ours int8", ("stock int8",), 1.15),
    Claim("ours int8", ("keras-hub int8",)),
    Claim("ours int8_mixed", ("ours float32",)),
    Claim("ours int8_mixed", ("ours int8_static",)),
    Claim("ours int8_mixed", ("stock int8",)),
    Claim("ours int8_mixed", ONNX_INT8),
    Claim("ours int8_mixed", ("openvino int8",)),
    Claim("ours int8_full", ("stock int8_full",), 2.5),
    Claim("phone int8_static", ("openvino int8",), 2.2),
    Claim("phone int8_mixed", ("openvino int8",)),
)
SIZES = {"ours int8": 6.2, "ours int4": 3.4}  # MB at most, of a Ti/16


@dataclasses.dataclass
class File:
    """One file of one maker; `error` says why there is none, or why it does not run."""

    maker: str
    path: Path
    error: str | None = None
    kept: bool = False
    takes: str | None = None  # the type of its input
    times: list = dataclasses.field(default_factory=list)  # [round][run][elapsed, processor], milliseconds

    @property
    def name(self):
        return f"{self.maker} {self.path.stem}"

    @property
    def runtime(self):
        return "litert" if self.path.suffix == ".tflite" else self.maker

    @property
    def megabytes(self):
        parts = [self.path, *([self.path.with_suffix(".bin")] if self.path.suffix == ".xml" else [])]
        return sum(part.stat().st_size for part in parts) / 1e6

    @property
    def rounds(self):
        """[rounds, 2]: the median of each round."""
        return np.median(self.times, axis=1)

    def percentile(self, percent):
        return float(np.percentile(np.array(self.times)[..., 0], percent))


class Environments:
    """The Python of each maker; an environment that cannot be made is tried once."""

    def __init__(self):
        self.pythons = {}

    def python(self, maker):
        """A path, or None."""
        if maker in OUR_ENVIRONMENT or maker == "litert":
            return sys.executable
        if maker not in self.pythons:
            try:
                self.pythons[maker] = peer_python(maker)
            except (subprocess.CalledProcessError, OSError) as error:
                print(f"{maker}: {error}", file=sys.stderr)
                self.pythons[maker] = None
        return self.pythons[maker]


def make(file, job, environments):
    """Write the file, in a process of its own, unless it is there; `file.error` says why it failed."""
    if file.path.exists():
        file.kept = True
        return
    python = environments.python(file.maker)
    if python is None:
        file.error = "its environment could not be made: see what pip says above"
        return
    print(f"Making {file.name} ...", file=sys.stderr)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        python,
        HERE / "export_making_worker.py",
        file.maker,
        json.dumps({**job, "file": str(file.path)}),
    ]
    file.error = "not built: interrupted"
    try:
        result = subprocess.run(command, capture_output=True, text=True)
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        file.error = f"not built: {last}" if result.returncode else None
    finally:
        if file.error:
            file.path.unlink(missing_ok=True)  # half of a file must not be kept


class Worker:
    """The files of one runtime in a process of its own; idle until asked."""

    def __init__(self, python, runtime, files, verbose):
        paths = json.dumps({file.name: str(file.path) for file in files})
        command = [python, HERE / "export_timing_worker.py", runtime, paths]
        self.log = None if verbose else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a timing worker died: run again with --verbose to see why")
        return json.loads(line)

    def time(self, name, runs):
        self.process.stdin.write(json.dumps([name, runs]) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(files, environments, options):
    """Fill `times`: all files take turns, round by round, one at a time."""
    workers = {}
    for runtime in dict.fromkeys(file.runtime for file in files):
        theirs = [file for file in files if file.runtime == runtime]
        workers[runtime] = Worker(environments.python(runtime), runtime, theirs, options.verbose)
        for file in theirs:
            about = workers[runtime].about[file.name]
            file.error, file.takes = about.get("error"), about.get("takes")
    order = [file for file in files if not file.error]
    for _ in range(options.rounds):
        for file in order:
            file.times.append(workers[file.runtime].time(file.name, options.runs))
        order.reverse()  # neither end is always the one that goes first
    for worker in workers.values():
        worker.close()


def judge(held):
    return f"[{'green' if held else 'red'}]{held}[/]"


def files_table(files, title):
    table = Table(title=title)
    table.add_column("file")
    for column in ("MB", "p50 ms", "p95 ms"):
        table.add_column(column, justify="right")
    table.add_column("takes")
    table.add_column("")
    for file in files:
        if file.error:
            table.add_row(file.name, "", "", "", "", file.error[:100])
        else:
            figures = (f"{f:.2f}" for f in (file.megabytes, file.percentile(50), file.percentile(95)))
            table.add_row(file.name, *figures, file.takes, "from an earlier run" if file.kept else "")
    return table


def claims_table(files):
    """The ratio of each round, and then their median: a slow second hurts one round, not the result."""
    table = Table(title="Times as fast")
    for column in ("file", "than"):
        table.add_column(column)
    for column in ("ratio", "middle half", "by CPU time"):
        table.add_column(column, justify="right")
    table.add_column("anchor")
    for claim in CLAIMS:
        others = [files[name] for name in claim.others if name in files]
        if not others or claim.ours not in files:
            continue  # left out
        ours, running = files[claim.ours], [file for file in others if not file.error]
        anchor = "" if claim.anchor is None else f"at least {claim.anchor}x: "
        if ours.error or not running:
            missing = ours if ours.error else others[0]
            table.add_row(ours.name, others[0].name, "", "", "", f"{anchor}{missing.name} is missing")
            continue
        other = min(running, key=lambda file: file.percentile(50))
        ratios = other.rounds / ours.rounds
        ratio, processor = np.median(ratios, axis=0)
        low, high = np.percentile(ratios[:, 0], [25, 75])
        verdict = anchor + (judge(bool(ratio >= claim.anchor)) if anchor else "none")
        # The same from all runs together. Where the three disagree, the machine was busy with something else.
        overall = other.percentile(50) / ours.percentile(50)
        if max(abs(ratio / overall - 1), abs(ratio / processor - 1)) > UNSTEADY:
            verdict += f", unsteady ({overall:.2f}x over all runs)"
        than = other.name + (", the fastest of its int8" if len(others) > 1 else "")
        table.add_row(
            ours.name, than, f"{ratio:.2f}x", f"{low:.2f} to {high:.2f}", f"{processor:.2f}x", verdict
        )
    return table


def print_sizes(console, files, variant):
    """Ours beside the anchors, and not larger than the stock file of the same kind."""

    def line(text, file, most):
        verdict = (
            f"{file.megabytes:.2f} MB: {judge(file.megabytes <= most)}" if not file.error else file.error
        )
        console.print(f"{file.name} is {text}: {verdict}")

    for name, most in SIZES.items() if variant == "Ti/16" else ():
        line(f"at most {most} MB", files[name], most)
    stock = files.get("stock int8")
    if stock and not stock.error:
        line(f"not larger than stock int8 ({stock.megabytes:.2f} MB)", files["ours int8"], stock.megabytes)


def our_profiles():
    """Those that exist, and those that are spoken of here: one that is missing becomes a row that says so."""
    from keras_vit.export.profiles import PROFILES

    spoken_of = [*SIZES, *(claim.ours for claim in CLAIMS)]
    return dict.fromkeys([*PROFILES, *(name.split()[1] for name in spoken_of if name.startswith("ours"))])


def compare(options, folder, console):
    from keras_vit.config import ViTConfig

    config = ViTConfig.of(options.variant)
    job = {name: getattr(config, name) for name in ("patch_size", "width", "depth", "num_heads", "mlp_width")}
    job |= {"variant": options.variant, "image_size": options.image_size, "classes": CLASSES}
    job["pictures"] = str(folder / "pictures.npy")
    np.save(job["pictures"], random_pictures(options.calibration, (options.image_size,) * 2, seed=1))

    environments = Environments()
    wanted = {"ours": [f"{profile}.tflite" for profile in our_profiles()]}
    wanted |= {maker: FILES[maker] for maker in ("phone", *options.peers.split(","))}
    files = []
    for maker, names in wanted.items():
        if maker in NEEDS:
            make(File(NEEDS[maker][0], folder.joinpath(*NEEDS[maker])), job, environments)
        for name in names:
            files.append(File(maker, folder / maker / name))
            make(files[-1], job, environments)
    measure([file for file in files if not file.error], environments, options)

    console.print(files_table(files, f"ViT-{options.variant} at {options.image_size}, batch 1, one thread"))
    by_name = {file.name: file for file in files}
    console.print(claims_table(by_name))
    print_sizes(console, by_name, options.variant)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="Ti/16")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--peers", default="stock,keras-hub,onnxruntime,openvino", help="leave some out")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=8, help="for each file and round")
    parser.add_argument("--calibration", type=int, default=64, help="pictures, for every quantizer")
    parser.add_argument("--keep", type=Path, help="a folder: the files in it are reused, new ones stay there")
    parser.add_argument("--verbose", action="store_true", help="show what the timing workers write to stderr")
    options = parser.parse_args()
    unknown = set(options.peers.split(",")) - set(FILES)
    if unknown:
        parser.error(f"unknown peers {', '.join(sorted(unknown))}")
    start, console = time.time(), Console(width=None if sys.stdout.isatty() else 140)
    if options.keep:
        folder = options.keep.resolve() / f"{options.variant.replace('/', '-')}-{options.image_size}"
        folder.mkdir(parents=True, exist_ok=True)
        compare(options, folder, console)
    else:
        with tempfile.TemporaryDirectory() as name:
            compare(options, Path(name), console)
    print(f"{time.time() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
