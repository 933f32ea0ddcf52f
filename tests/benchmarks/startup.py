"""Is `keras-vit --help` quick? Its time beside an empty Python and beside `import keras`, taking turns.

python tests/benchmarks/startup.py
"""

import subprocess
import sys
import time
from statistics import median

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "keras-vit --help": ["-m", "keras_vit.cli", "--help"],
    "import keras_vit": ["-c", "import keras_vit"],
    "import keras": ["-c", "import keras"],
}


def main():
    times = {name: [] for name in COMMANDS}
    for _ in range(5):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    keras = median(times["import keras"])
    for name, values in times.items():
        note = " (anchor: under 1 s)" if name == "keras-vit --help" else ""
        quicker = keras / median(values)
        print(f"{name:<20}{median(values):7.2f} s   {quicker:6.1f}x as quick as `import keras`{note}")


if __name__ == "__main__":
    main()
