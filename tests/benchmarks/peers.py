"""The environments of the packages that we measure ourselves against, each apart from ours.

They are made on first use under `.venv-peers/` (ignored by git) from the registry that pip is configured
for. A line of `PEERS` without a version takes the one in `constraints.txt`, so that both sides run on the
same TensorFlow, Keras and NumPy.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "keras-hub": ("tensorflow", "keras", "numpy", "keras-hub==0.32.0"),  # 2.4 GB
    "mediapipe": ("mediapipe==1.2.2",),  # 540 MB; it wants another absl-py than tfmot
    # 1.2 GB, and more where pip finds PyTorch with CUDA only. Transformers makes the ViT, PyTorch the .onnx.
    "onnxruntime": (
        "torch==2.13.0",
        "transformers==5.23.0",
        "onnx==1.23.2",
        "onnxscript==0.7.2",
        "onnxruntime==1.32.0",
        "numpy",
    ),
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0", "numpy"),  # 530 MB; reads that .onnx
}


def wanted(name):
    """The lines of that peer, each with its version."""
    constraints = (ROOT / "constraints.txt").read_text()
    return [line if "==" in line else re.search(rf"(?m)^{line}==\S+", constraints)[0] for line in PEERS[name]]


def peer_python(name):
    """The Python of that peer's environment; makes the environment when it is missing or outdated.

    Raises:
        subprocess.CalledProcessError: pip could not install it; pip's words are on stderr.
    """
    folder = ROOT / ".venv-peers" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    lines = wanted(name)
    if not stamp.exists() or stamp.read_text().split() != lines:
        print(f"Making {folder.relative_to(ROOT)} (a minute) ...", file=sys.stderr)
        stamp.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *lines], check=True)
        stamp.write_text("\n".join(lines) + "\n")
    return python
