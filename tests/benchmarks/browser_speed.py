"""How fast the exported files are in a browser, and how much the page loads.

    python tests/benchmarks/browser_speed.py DIR              # about 1 minute, with Chromium and Node.js

DIR holds .tflite files of one image model, float32.tflite among them, such as runs/peers/Ti-16-224/ours of
`export_peers.py --variant Ti/16`. The page of mobile_demo runs them in turns, on one thread, on one picture,
so that what else the machine does harms all alike. The median run of each counts; beside it stands the CPU
time of the page's process for one run, which a busy machine changes less.

A ratio is float32 against the file. A prototype made by hand: 3.0 for int8_static of Ti/16; asked: 2.5.
It depends on the processor: XNNPACK's int8 kernels for WebAssembly are fast where the browser has an exact
dot product of 8-bit numbers (its `use_wasm_sdot`). Arm has (phones since about 2018); on x86, V8 makes it of
AVX-VNNI alone, not of AVX512-VNNI, and else of an instruction that saturates. The output says which it is.

Found, one thread, Ti/16, where it is exact: int8_static 3.05x (17.6 ms, float32 53.7), int8 1.84x on an AMD
EPYC of Zen 5, otherwise idle. Where it saturates: 1.14x on an older EPYC, 1.20x on a busy Intel Xeon.
LiteRT's build without relaxed SIMD took as long for int8_static on the older EPYC (52.7 ms; 52.3 with): the
dot product was not in use; its float32 was slower (80.5 ms; 59.3 with), so the page takes the other build.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from keras_vit.export.verification.manifest import described
from keras_vit.mobile_demo.server import make_server
from keras_vit.mobile_demo.site import PAGE

ANCHOR, ASKED = 3.0, 2.5
DOT = {-508: "exact (Arm)", 129540: "exact (AVX-VNNI)", 65534: "saturates: int8 is slow here", None: "none"}
SCENARIOS = Path(__file__).parents[1] / "mobile_demo" / "browser.mjs"


def browse(scenario, **arguments):
    """What a scenario of browser.mjs saw."""
    chromium = shutil.which("chromium") or sys.exit("chromium is not installed: apt-get install chromium")
    command = ["node", str(SCENARIOS), str(PAGE.parent / "web"), chromium, scenario]
    done = subprocess.run(command, input=json.dumps(arguments), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else sys.exit(done.stderr)


def as_export(folder, names, out):
    """An export directory `out` with these files: the page wants a manifest."""
    out.mkdir()
    for name in names:
        shutil.copyfile(folder / name, out / name)
    artifacts = [{**described(out, name, Path(name).stem), "source": "keras/float32.keras"} for name in names]
    manifest = {"format": 1, "image_size": [224, 224], "labels": ["?"], "artifacts": artifacts}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def start(directory):
    """The address of a server that ends with this process."""
    server = make_server(directory)
    server.names.add("phone.test")  # a name that is no secure context
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://localhost:{server.server_port}/"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", default="float32,int8,int8_mixed,int8_static")
    parser.add_argument("--rounds", type=int, default=5, help="how often each file has its turn")
    parser.add_argument("--runs", type=int, default=12, help="runs of each turn")
    options = parser.parse_args()
    names = [f"{name}.tflite" for name in options.files.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "noise.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(picture)
        url = start(as_export(options.folder, names, Path(scratch) / "export"))
        turns = {"rounds": options.rounds, "runs": options.runs}
        seen = browse("speed", url=url, picture=str(picture), files=names, **turns)
        (Path(scratch) / "none.tflite").write_bytes(b"no model")  # what is loaded beside the model
        url = start(as_export(Path(scratch), ["none.tflite"], Path(scratch) / "empty"))
        loads = [browse("loads", url=url, threads=threads) for threads in (True, False)]
    rows = {
        name: (np.median(times["wall"]), np.median(times["cpu"])) for name, times in seen["files"].items()
    }
    print(f"{seen['device']}; median of {options.rounds * options.runs} runs of each file, in turns")
    for name, row in rows.items():
        wall, cpu = (reference / own for reference, own in zip(rows["float32.tflite"], row, strict=True))
        anchor = f"   prototype {ANCHOR}x, asked {ASKED}x" if name == "int8_static.tflite" else ""
        print(f"{name:20} {row[0]:6.1f} ms {wall:5.2f}x    CPU {row[1]:6.1f} ms {cpu:5.2f}x{anchor}")
    print(f"this browser's 8-bit dot product: {DOT.get(seen['dot'], seen['dot'])}")
    print("loaded without the model (asked: at first below 12 MB):")
    for load in loads:
        print(f"{load['device']}: {load['first'] / 1e6:.2f} MB, again {load['second'] / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
