"""The environments of the packages that we measure ourselves against, each apart from ours.

They are made on first use under `.venv-peers/` (ignored by git) with the same TensorFlow, Keras and
NumPy as in `constraints.txt`, from the registry that pip is configured for.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("tensorflow", "keras", "numpy")  # the same versions as ours
PEERS = {"keras-hub": "keras-hub==0.32.0"}


def shared_versions():
    """The lines of `constraints.txt` for the packages in `SHARED`."""
    text = (ROOT / "constraints.txt").read_text()
    return [re.search(rf"(?m)^{name}==\S+", text)[0] for name in SHARED]


def peer_python(name):
    """The Python of that peer's environment; makes the environment when it is missing or outdated."""
    folder = ROOT / ".venv-peers" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = [*shared_versions(), PEERS[name]]
    if not stamp.exists() or stamp.read_text().split() != wanted:
        print(f"Making {folder.relative_to(ROOT)} (a minute, 2.4 GB) ...", file=sys.stderr)
        stamp.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        stamp.write_text("\n".join(wanted) + "\n")
    return python
