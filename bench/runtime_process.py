"""One runtime with one network, serving turns (interleave.py); runtimes.py starts it in a process of its own.

    python -m bench.runtime_process RUNTIME PRECISION NETWORK THREADS FOLDER [LEAST]

Each gets its best settings: tensors bound beforehand, everything optimised, the threads it is told. Its output is
compared with torch's before it is timed (by a correlation of LEAST at least, else what the precision allows), and the
precision in which its convolutions run is read back from it. Where FOLDER has NETWORK.test.npz, with `pixels`,
`labels`, `mean` and `std`, it names all of these images too, one at a time.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.interleave import serve
from bench.measure import durations

Call = Callable[[], object]


class Ready(NamedTuple):
    """What is timed, its output for the input (None: not compared), facts, and the logits of any other image.

    `answer` takes float32 `[1, C, H, W]`; that of bbg takes the pixels `[1, H, W, C]`.
    """

    call: Call
    output: np.ndarray | None
    facts: dict[str, Any]
    answer: Callable[[np.ndarray], Any]


class Precision(NamedTuple):
    """Which file of the twin, OpenVINO's hint, what its convolutions then run in, and how near to torch's output."""

    file: str
    hint: str
    runs_in: set[str]
    least_correlation: float


JUDGED = "test.npz"
BATCH = "images"  # what the first axis of an ONNX file is called that takes any number
PRECISIONS = {
    "float32": Precision("onnx", "f32", {"f32"}, 0.999999),
    "default": Precision("onnx", "", {"f32", "bf16", "f16"}, 0.99),
    "bfloat16": Precision("onnx", "bf16", {"bf16"}, 0.99),
    "int8": Precision("int8.onnx", "f32", {"i8", "u8"}, 0.98),
    "int8, 7-bit weights": Precision("int7.onnx", "f32", {"i8", "u8"}, 0.98),
}


def in_bbg(network: str, threads: int, folder: Path, precision: str) -> Ready:
    """The packed network on the bytes of an image: normalising them is part of its time."""
    import bbg

    path, judged = folder / f"{network}.{precision}.bbg", folder / f"{network}.{JUDGED}"
    path = path if path.exists() else folder / f"{network}.bbg"
    engine = bbg.load(path, threads=threads)
    channels, *size = engine.input_shape
    made = np.random.default_rng(0).integers(0, 256, (1, *size, channels), dtype=np.uint8)
    image = np.load(judged)["pixels"][:1] if judged.exists() else made
    facts = {"kernels": engine.kernels, "bytes": path.stat().st_size}
    return Ready(lambda: engine(image), None, facts, engine)


def by_openvino(model: Path, threads: int, precision: str, batch: int | None = None) -> tuple[Any, dict[str, int]]:
    """The compiled network and how many convolutions have which kernel; RuntimeError for another precision.

    `batch`: images at a time, for a file that takes any number. Where OpenVINO chooses the precision, that counts too.
    """
    import openvino as ov

    asked = PRECISIONS[precision]
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if asked.hint:
        settings["INFERENCE_PRECISION_HINT"] = asked.hint
    settings["ENABLE_CPU_PINNING"] = False  # where something else runs, a pinned thread cannot step aside
    core = ov.Core()
    network = core.read_model(model)
    if batch is not None:
        shape = network.input(0).partial_shape
        shape[0] = batch
        network.reshape(shape)
    compiled = core.compile_model(network, "CPU", settings)

    def fact(node: Any, key: str) -> str:
        return str(node.get_rt_info()[key].astype(str))

    nodes = [n for n in compiled.get_runtime_model().get_ops() if fact(n, "layerType") == "Convolution"]
    kernels = Counter(fact(n, "primitiveType") for n in nodes)
    ran = Counter(fact(n, "runtimePrecision") for n in nodes)
    if not set(ran) <= asked.runs_in:
        raise RuntimeError(f"OpenVINO runs its convolutions in {dict(ran)}, not in {precision}")
    return compiled, {**kernels, **ran} if asked.hint == "" else dict(kernels)


def in_openvino(network: str, threads: int, folder: Path, precision: str) -> Ready:
    """OpenVINO in its latency mode."""
    import openvino as ov

    x = np.load(folder / f"{network}.npz")["x"]
    model = folder / f"{network}.{PRECISIONS[precision].file}"
    compiled, kernels = by_openvino(model, threads, precision)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x, shared_memory=True))
    request.infer()

    def call(_borrowed: np.ndarray = x) -> None:  # the tensor does not keep the array alive
        request.infer()

    def answer(image: np.ndarray) -> np.ndarray:
        x[...] = image  # the tensor shares its memory
        request.infer()
        found: np.ndarray = request.get_output_tensor().data
        return found

    facts = {"kernels": kernels, "bytes": model.stat().st_size}
    return Ready(call, np.array(request.get_output_tensor().data), facts, answer)


def by_onnxruntime(model: Path, threads: int, precision: str, batch: int | None = None) -> tuple[Any, dict[str, int]]:
    """The session and how many convolutions there are of each kind; RuntimeError for int8 that is none.

    `batch`: images at a time, for a file that takes any number.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    with tempfile.TemporaryDirectory() as place:
        options.optimized_model_filepath = str(Path(place) / "optimized.onnx")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        nodes = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    convolutions = {kind: count for kind, count in nodes.items() if "Conv" in kind}
    if precision == "int8" and set(convolutions) != {"QLinearConv"}:
        raise RuntimeError(f"ONNX Runtime's convolutions are {convolutions}, not int8")
    return session, convolutions


def in_onnxruntime(network: str, threads: int, folder: Path, precision: str) -> Ready:
    """ONNX Runtime with everything optimised."""
    import onnxruntime as ort

    stored = np.load(folder / f"{network}.npz")
    x, y = stored["x"], np.empty_like(stored["y"])
    model = folder / f"{network}.{PRECISIONS[precision].file}"
    session, convolutions = by_onnxruntime(model, threads, precision)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    session.run_with_iobinding(binding)
    facts = {"kernels": convolutions, "bytes": model.stat().st_size}
    return Ready(
        lambda: session.run_with_iobinding(binding), y, facts, lambda image: session.run(None, {"x": image})[0]
    )


def in_torch(network: str, threads: int, folder: Path, precision: str) -> Ready:
    """Torch in whichever way is fastest here: eager, eager with channels last, or compiled with frozen weights."""
    import torch

    from bench.networks import build

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    model = build(network, "float")
    x = torch.from_numpy(np.load(folder / f"{network}.npz")["x"])
    last = torch.channels_last

    def without_gradients(function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> Call:
        def call() -> torch.Tensor:
            with torch.no_grad():
                return function(images)

        return call

    import torch._inductor.config

    torch._inductor.config.freezing = True
    ways = {
        "eager": without_gradients(model, x),
        "channels last": without_gradients(build(network, "float").to(memory_format=last), x.to(memory_format=last)),
        "compiled": without_gradients(torch.compile(model), x),
    }
    times = {}
    for name, call in ways.items():
        try:
            times[name] = min(durations(call, 0.5))
        except Exception as error:  # no C++ compiler, for example
            print(f"torch, {name}: {error}", file=sys.stderr)
    best = min(times, key=lambda name: times[name])
    return Ready(
        ways[best], np.asarray(ways[best]()), {"kernels": best}, lambda image: model(torch.from_numpy(image)).detach()
    )


def in_litert(network: str, threads: int, folder: Path, precision: str) -> Ready:
    """LiteRT with XNNPACK, on what its own converter makes (litert.py)."""
    from bench.litert import flat, interpreter

    model = flat(network, folder, precision)
    ready = interpreter(model, threads)
    entry, exit_ = ready.get_input_details()[0], ready.get_output_details()[0]

    def prepared(image: np.ndarray) -> np.ndarray:
        scale, zero = entry["quantization"]
        image = image.transpose(0, 2, 3, 1)
        return np.round(image / scale + zero).clip(-128, 127).astype(np.int8) if scale else np.ascontiguousarray(image)

    def call() -> None:
        ready.set_tensor(entry["index"], x)
        ready.invoke()

    def answer(image: np.ndarray) -> np.ndarray:
        ready.set_tensor(entry["index"], prepared(image))
        ready.invoke()
        scale, zero = exit_["quantization"]
        y: np.ndarray = ready.get_tensor(exit_["index"]).astype(np.float32)
        return (y - zero) * scale if scale else y

    image = np.load(folder / f"{network}.npz")["x"]
    x = prepared(image)
    return Ready(call, answer(image), {"kernels": "XNNPACK", "bytes": len(model)}, answer)


RUNTIMES = {
    "bbg": in_bbg,
    "OpenVINO": in_openvino,
    "ONNX Runtime": in_onnxruntime,
    "LiteRT": in_litert,
    "torch": in_torch,
}


def main() -> None:
    """Serve."""
    runtime, precision, network, threads, place, *least = sys.argv[1:]
    folder = Path(place)
    ready = RUNTIMES[runtime](network, int(threads), folder, precision)
    if ready.output is not None:
        expected = np.load(folder / f"{network}.npz")["y"]
        agreement = float(np.corrcoef(ready.output.ravel(), expected.ravel())[0, 1])
        if not agreement >= (float(least[0]) if least else PRECISIONS[precision].least_correlation):
            raise RuntimeError(f"{runtime}, {precision}: the output correlates with torch's by {agreement:.4f} only")
        ready.facts["correlation"] = agreement
    judged = folder / f"{network}.{JUDGED}"
    if judged.exists():
        ready.facts["accuracy"] = accuracy(ready, dict(np.load(judged)), as_pixels=runtime == "bbg")
    serve(ready.call, ready.facts)


def accuracy(ready: Ready, judged: dict[str, np.ndarray], as_pixels: bool) -> float:
    """The share of the images that get their label."""
    right = 0
    for pixels, label in zip(judged["pixels"], judged["labels"], strict=True):
        image = pixels[None]
        if not as_pixels:
            x = (image / np.float32(255) - np.float32(judged["mean"])) / np.float32(judged["std"])
            image = np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)
        right += int(np.asarray(ready.answer(image)).argmax() == label)
    return right / len(judged["labels"])


if __name__ == "__main__":
    main()
