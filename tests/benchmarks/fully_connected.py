"""How much faster can int8 be at all? LiteRT's fully connected operators alone, in the shapes of a ViT.

    python tests/benchmarks/fully_connected.py          # 1 minute

A quantized ViT cannot gain more than its matrix products do, which are 90% of float32's time. Ten products of
one shape in one file, one thread, float32 and int8 (static ranges, and per-token ranges taken while running,
which answers in float32), in billions of multiply-adds per second of CPU time, and as ratios of one run.

Expect (Intel Xeon with AVX512-VNNI, 2 cores): static int8 2.5x to 3.1x float32, so 3.2x for a whole model is
out of reach there; per token 2.4x to 4.0x, whose kernels take unsigned activations, as that instruction does.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

TOKENS, PRODUCTS, RUNS = 197, 10, 60
SHAPES = {"Ti": [(192, 192), (192, 768), (768, 192)], "S": [(384, 384), (384, 1536), (1536, 384)]}


def file(inputs, outputs, kind):
    """A .tflite of products of one tensor [1, 197, inputs]; `kind` is float32, static or token."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernels = [
        tf.constant(random.normal(0, inputs**-0.5, (inputs, outputs)).astype("float32"))
        for _ in range(PRODUCTS)
    ]

    @tf.function(input_signature=[tf.TensorSpec([1, TOKENS, inputs])])
    def products(x):
        return [tf.matmul(x, kernel) for kernel in kernels]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([products.get_concrete_function()])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "static":
        example = random.normal(size=(1, TOKENS, inputs)).astype("float32")
        converter.representative_dataset = lambda: ([example] for _ in range(3))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


class Timed:
    """A file in LiteRT, and how long its runs took."""

    def __init__(self, content):
        from ai_edge_litert.interpreter import Interpreter

        self.runner = Interpreter(model_content=content, num_threads=1)
        self.runner.allocate_tensors()
        place = self.runner.get_input_details()[0]
        scale = 40 if place["dtype"] == np.int8 else 1
        values = np.random.default_rng(1).normal(0, scale, place["shape"])
        self.runner.set_tensor(place["index"], values.astype(place["dtype"]))
        self.times = []

    def run(self):
        start = time.process_time()
        self.runner.invoke()
        self.times.append(time.process_time() - start)


def main():
    table = Table("variant", "inputs x outputs", "float32", "int8 static", "", "int8 per token", "")
    for variant, shapes in SHAPES.items():
        for inputs, outputs in shapes:
            files = {kind: Timed(file(inputs, outputs, kind)) for kind in ("float32", "static", "token")}
            for _ in range(RUNS):  # in turns: a machine that is busy is busy for all of them
                for timed in files.values():
                    timed.run()
            speeds = {
                kind: TOKENS * inputs * outputs * PRODUCTS / np.median(timed.times) / 1e9
                for kind, timed in files.items()
            }
            row = [f"{speeds['float32']:.0f}"]
            for kind in ("static", "token"):
                row += [f"{speeds[kind]:.0f}", f"{speeds[kind] / speeds['float32']:.2f}x"]
            table.add_row(variant, f"{inputs} x {outputs}", *row)
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
