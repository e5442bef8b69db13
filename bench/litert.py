"""Real-valued twins in LiteRT with XNNPACK, int8 and float32, beside bbg: the peer that is fastest on small networks.

    python -m bench.litert [--rounds 30] [--out bench/results/litert.json]

LiteRT gets an environment of its own under build/: TensorFlow mirrors the twin in Keras, with random weights, and
converts it; int8 is full-integer quantisation after training, with calibration images. One image, one thread, batch
norms folded into the convolutions by the converter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.interleave import Runner, pooled, run_interleaved, serve
from bench.markdown import MEDIAN, MIN, RATIOS, plain, table
from bench.measure import spread
from bench.record import Result, parser_of, run

TITLE = "LiteRT"
PACKAGES = ("tensorflow-cpu==2.21.0",)
NETWORKS = ("resnet20",)
PRECISIONS = ("int8", "float32")
CALIBRATION = 16  # images


def twin(width: int = 16, blocks: int = 3) -> Any:
    """The float twin of ResNet-20 in Keras: one shortcut around each convolution, as `bbg.create(method="float")`."""
    import tensorflow as tf

    layers = tf.keras.layers

    def conv(x: Any, channels: int, stride: int) -> Any:
        x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def shortcut(x: Any, channels: int, stride: int) -> Any:
        if stride > 1:
            x = layers.AveragePooling2D(stride)(x)
        repeats = channels // x.shape[-1]
        return layers.Concatenate()([x] * repeats) if repeats > 1 else x

    images = tf.keras.Input((32, 32, 3), batch_size=1)
    x = layers.ReLU()(conv(images, width, 1))
    for stage in range(3):
        for unit in range(2 * blocks):
            channels, stride = width * 2**stage, 2 if stage and unit == 0 else 1
            x = layers.ReLU()(layers.Add()([conv(x, channels, stride), shortcut(x, channels, stride)]))
    x = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(images, layers.Dense(10)(x))


def work(precision: str) -> None:
    """In LiteRT's environment: convert, then serve."""
    import numpy as np
    import tensorflow as tf

    images = np.random.default_rng(0).standard_normal((CALIBRATION, 1, 32, 32, 3)).astype(np.float32)
    converter = tf.lite.TFLiteConverter.from_keras_model(twin())
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    flat = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=flat, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    exit_ = interpreter.get_output_details()[0]["index"]
    image = (images[0] * 30).astype(entry["dtype"]) if precision == "int8" else images[0]

    def call() -> object:
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(exit_).shape

    serve(call, {"bytes": len(flat)})


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and runtime."""
    from bench.environments import environment
    from bench.networks import pack

    python = str(environment("litert", PACKAGES))
    found = []
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            pack(network, Path(folder) / f"{network}.bbg")
            own = [sys.executable, "-m", "bench.runtime_process", "bbg", "1 bit", network, "1", folder]
            runners = {"bbg, 1 bit": Runner(own)}
            for precision in PRECISIONS:
                command = [python, "-m", "bench.litert", "--work", precision]
                runners[f"LiteRT, {precision}"] = Runner(command, TF_CPP_MIN_LOG_LEVEL="3")
            figures = {n: spread(t) for n, t in pooled(run_interleaved(runners, arguments.rounds, 0.1)).items()}
            base = figures["bbg, 1 bit"]
            for name, runner in runners.items():
                row = {"network": network, "runtime": name, **figures[name]}
                row["ratio_of_min"] = row["min_us"] / base["min_us"]
                row["ratio_of_median"] = row["median_us"] / base["median_us"]
                found.append({**row, "bytes": runner.facts["bytes"]})
                runner.close()
    return {"versions": dict(p.split("==") for p in PACKAGES), "threads": 1, "batch": 1, "litert": found}


def render(result: Result) -> str:
    """A row per runtime."""
    text = "32x32, one image, one thread, the twin mirrored in Keras; full-integer int8 with 16 calibration images."
    return f"{text}\n\n{table(result['litert'], plain('network'), plain('runtime'), MIN, MEDIAN, *RATIOS)}"


def main() -> None:
    """The command line; with --work, that of a process that takes turns."""
    if "--work" not in sys.argv:
        return run(parser_of("litert", __doc__, rounds=30), rows)
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=PRECISIONS)
    return work(parser.parse_args().work)


if __name__ == "__main__":
    main()
