"""Is the quantized file faster than the float one? Latency of each profile on one thread, as ratios.

    python tests/benchmarks/latency.py --variant Ti/16              # 224 x 224, about 2 minutes

The weights are random: time does not depend on them. The files take turns, round by round, so
that a machine that is busy for a while is busy for all of them. Anchor: a hand-made int8_static
prototype of ViT-Ti/16 was 3.1 times as fast as its float32 file.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ANCHORS = {("Ti/16", "int8"): 2.1, ("Ti/16", "int8_static"): 3.1}


def export(variant, image_size, profiles, folder):
    """Write one .tflite for each profile, from one model with random weights."""
    import keras

    import keras_vit
    from keras_vit.export.profiles import profile_named
    from keras_vit.export.quantization.model import quantize_aware
    from keras_vit.export.tflite.convert import convert

    keras.utils.set_random_seed(0)
    model = keras_vit.ViT(variant, image_size=image_size, num_classes=1000)
    model.head.kernel.assign(np.random.default_rng(0).normal(0, 0.02, model.head.kernel.shape))
    images = np.random.default_rng(1).integers(0, 256, (8, *model.image_size, 3), dtype=np.uint8)
    for profile in profiles:
        made = quantize_aware(model, profile, images) if profile_named(profile).quantized else model
        made.save(folder / f"{profile}.keras")
        convert(folder / f"{profile}.keras", folder / f"{profile}.tflite", profile)


def measure(folder, profiles, rounds, runs, threads):
    """Milliseconds of every run of every file, taking turns."""
    from keras_vit.export.verification.runners import load_runner

    runners = {profile: load_runner(folder / f"{profile}.tflite", threads) for profile in profiles}
    image = np.random.default_rng(2).integers(0, 256, (*runners[profiles[0]].image_size, 3), dtype=np.uint8)
    times = {profile: [] for profile in profiles}
    for _ in range(rounds):
        for profile, runner in runners.items():
            times[profile] += runner.time_one(image, seconds=0, warmup=2, least=runs)
    return runners, times


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="Ti/16")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--profiles", default="float32,int8,int8_static")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=10, help="for each file and round")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    profiles = options.profiles.split(",")
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(options.variant, options.image_size, profiles, folder)
        runners, times = measure(folder, profiles, options.rounds, options.runs, options.threads)
        print(f"ViT-{options.variant} at {options.image_size}, batch 1, {options.threads} thread(s)")
        print(f"{'file':<14}{'MB':>7}{'p50 ms':>9}{'p95 ms':>9}{'delegated':>11}{'faster than float32':>22}")
        # The ratio of each round, and then their median: a slow second hurts one round, not the result.
        blocks = {p: np.reshape(times[p], (options.rounds, -1)).mean(1) for p in profiles}
        for profile in profiles:
            size = (folder / f"{profile}.tflite").stat().st_size / 1e6
            p50, p95 = np.percentile(times[profile], [50, 95])
            ratio = (
                float(np.median(blocks["float32"] / blocks[profile])) if "float32" in blocks else float("nan")
            )
            anchor = ANCHORS.get((options.variant, profile))
            note = f" (anchor {anchor})" if anchor else ""
            share = f"{runners[profile].delegated:.0%}"
            print(f"{profile:<14}{size:>7.2f}{p50:>9.2f}{p95:>9.2f}{share:>11}{ratio:>12.2f}x{note}")
    print(f"{time.time() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
