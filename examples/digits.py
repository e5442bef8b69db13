"""The whole way on one page: train a small BBG network on handwritten digits, convert it, run it at 1 bit.

    python examples/digits.py --out runs/demo      (or: make demo)

Beside it stands its float twin: the same network with real-valued weights and ReLU, trained for half the epochs, in the
fastest engine that is installed. (Torch only simulates bits; its time would say nothing.) Prints one table, and draws
`digits.png`. Latency: one image, one thread, best of 300, all engines in turn.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import bbg
from bbg import style, tables
from bbg.data import Split, open_data
from bbg.files import write_bytes
from bbg.layers import BinaryConv2d
from bbg.recipe import Recipe
from bbg.training.evaluate import logits_of
from bbg.training.loop import train

Call = Callable[[], Any]


class Side(NamedTuple):
    """One side of the comparison: who computes, logits on the held-out digits, bytes, seconds for one image."""

    engine: str
    logits: np.ndarray
    bytes: int
    seconds: float

    def accuracy(self, labels: np.ndarray) -> float:
        """Share of the digits named rightly."""
        return float((self.logits.argmax(1) == labels).mean())


class Sides(NamedTuple):
    """The 1-bit network as torch simulates it, its float twin, and the 1-bit network in bbg's engine.

    `seconds`: of the twin for one image, by engine, the fastest first.
    """

    simulated: Side
    twin: Side
    packed: Side
    seconds: dict[str, float]


def run(out: Path, **changes: Any) -> Sides:
    """Train, convert and compare in the folder `out`. `changes` are recipe keys."""
    torch.set_num_threads(1)  # 8x8 images give a second thread nothing to do
    recipe = Recipe.find("digits_resnet8").changed(changes)
    split = open_data(recipe.dataset, None)
    show = sys.stdout.isatty()
    trained = train(recipe, split, out, progress=show)
    model = trained.network()
    half = recipe.changed({"method": "float", "act": "relu", "epochs": max(1, recipe.epochs // 2)})
    twin = train(half, split, out / "twin", progress=show).network()

    # So small a network has few weights at its edges: in float32 they cost a kilobyte and change nothing.
    file, first = out / "digits.bbg", torch.from_numpy(split.preprocess.normalize(split.test.images[:32]))
    bbg.convert(model, file, first, edges="fp32", preprocess=split.preprocess, labels=list(split.classes))
    engine, one = bbg.load(file, threads=1), split.test.images[:1]
    logits = logits_of(model, split.test, split.preprocess).numpy()
    of_twin = logits_of(twin, split.test, split.preprocess).numpy()
    twins = calls_of(twin, split, of_twin)
    times = best_times([lambda: engine(one), torch.inference_mode()(lambda: model(first[:1])), *twins.values()])
    seconds = dict(sorted(zip(twins, times[2:], strict=True), key=lambda entry: entry[1]))
    best = next(iter(seconds))
    sides = Sides(
        simulated=Side("torch", logits, float_bytes(model), times[1]),
        twin=Side(best, of_twin, float_bytes(twin), seconds[best]),
        packed=Side("bbg", engine(split.test.images), file.stat().st_size, times[0]),
        seconds=seconds,
    )
    print_table(sides, split)
    draw(out / "digits.png", sides, split, trained.history, model)
    return sides


def calls_of(twin: nn.Module, split: Split, logits: np.ndarray) -> dict[str, Call]:
    """A run of one image in each engine that is here and computes what torch computes."""
    one = np.ascontiguousarray(split.preprocess.normalize(split.test.images[:1]))
    calls = {}
    for name, make in ENGINES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what exporters say among themselves
                call = make(twin, one)
                if np.allclose(call(), logits[:1], rtol=0.05, atol=0.05 * np.abs(logits).max()):
                    calls[name] = call
        except ImportError:
            continue  # it is not installed
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}")
    return calls


def in_bbg(twin: nn.Module, one: np.ndarray) -> Call:
    """Its own engine, with float32 weights."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "twin.bbg"
        bbg.convert(twin, file, torch.from_numpy(one).repeat(2, 1, 1, 1), edges="fp32")
        engine = bbg.load(file, threads=1)
    return lambda: engine(one)


def in_torch(twin: nn.Module, one: np.ndarray) -> Call:
    """Torch, traced and frozen."""
    x = torch.from_numpy(one)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(twin.eval(), x))

    def call() -> np.ndarray:
        with torch.inference_mode():
            return frozen(x).numpy()  # type: ignore[no-any-return]

    for _ in range(3):
        call()  # the first calls compile
    return call


def in_openvino(twin: nn.Module, one: np.ndarray) -> Call:
    """OpenVINO in its latency mode."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    model = ov.convert_model(twin.eval(), example_input=torch.from_numpy(one), input=[list(one.shape)])
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(one, shared_memory=True))

    def call() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data  # type: ignore[no-any-return]

    return call


def in_onnxruntime(twin: nn.Module, one: np.ndarray) -> Call:
    """ONNX Runtime with everything optimised."""
    import onnx  # noqa: F401  # torch's exporter asks for it
    import onnxruntime as ort

    file = io.BytesIO()
    x = torch.from_numpy(one)
    torch.onnx.export(twin.eval(), (x,), file, input_names=["x"], output_names=["y"], dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": one})[0]
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(one))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def call() -> np.ndarray:
        session.run_with_iobinding(binding)
        return y  # type: ignore[no-any-return]

    return call


ENGINES = {
    "OpenVINO": in_openvino,
    "ONNX Runtime": in_onnxruntime,
    "torch, frozen": in_torch,
    "bbg in float32": in_bbg,
}


def float_bytes(model: nn.Module) -> int:
    """Bytes of all weights and statistics in float32."""
    return sum(4 * tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())


def best_times(calls: list[Call], rounds: int = 15, runs: int = 20) -> list[float]:
    """Seconds of the fastest run of each call, in rounds of `runs` each: a slow moment of the machine slows all."""
    times = [[min(timeit.repeat(call, number=1, repeat=runs)) for call in calls] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def rows(sides: Sides, split: Split) -> Iterator[dict[str, str]]:
    """The comparison, a row per figure."""
    labels, twin, packed = split.test.labels, sides.twin, sides.packed
    heads = f"float twin, {twin.engine}", "1 bit, bbg"

    def row(name: str, left: str, right: str, ratio: str) -> dict[str, str]:
        return {"": name, heads[0]: left, heads[1]: right, "ratio": ratio}

    yield row("accuracy", *(f"{100 * side.accuracy(labels):.1f} %" for side in (twin, packed)), "")
    yield row("size", f"{twin.bytes:,} bytes", f"{packed.bytes:,} bytes", f"{twin.bytes / packed.bytes:.1f}")
    micro = 1e6 * twin.seconds, 1e6 * packed.seconds
    yield row("one image", f"{micro[0]:,.1f} us", f"{micro[1]:,.1f} us", f"{micro[0] / micro[1]:.1f}")


def print_table(sides: Sides, split: Split) -> None:
    """The comparison on the terminal."""
    labels = split.test.labels
    other = int((sides.simulated.logits.argmax(1) != sides.packed.logits.argmax(1)).sum())
    print(f"\n{len(labels)} held-out digits, one thread\n")
    print(tables.terminal(list(rows(sides, split)), bold=sys.stdout.isatty()))
    others = ", ".join(f"{1e6 * taken:,.1f} us in {name}" for name, taken in list(sides.seconds.items())[1:])
    print(
        f"\nThe float twin takes {others}; the fastest counts.\n"
        f"The packed file names another class than the trained network on {other} of {len(labels)} digits.\n"
        f"(Torch, which only simulates bits, takes {1e6 * sides.simulated.seconds:,.0f} us for one.)\n"
    )


# The picture ----------------------------------------------------------------------------------------------------------


def draw(path: Path, sides: Sides, split: Split, history: list[dict[str, float]], model: nn.Module) -> None:
    """One picture: digits with the engine's answers, the learning curve, learned weight bits, and the comparison."""
    with style.applied():
        figure = style.figure(13, 7.2)
        grid = figure.add_gridspec(2, 3, width_ratios=(1.3, 1.1, 1), height_ratios=(1.55, 1))
        draw_digits(figure.add_subplot(grid[:, 0]), sides.packed, split)
        draw_curve(figure.add_subplot(grid[0, 1]), history)
        draw_bits(figure.add_subplot(grid[0, 2]), model)
        bars = grid[1, 1:].subgridspec(1, 2)
        twin, packed = sides.twin, sides.packed
        sizes = {"1 bit": packed.bytes / 1e3, "float": twin.bytes / 1e3}
        draw_bars(figure.add_subplot(bars[0]), "Size", sizes, lambda v: f"{v:,.0f} kB")
        times = {"1 bit, bbg": 1e6 * packed.seconds} | {
            f"float, {name.removesuffix(' in float32')}": 1e6 * taken for name, taken in sides.seconds.items()
        }
        draw_bars(
            figure.add_subplot(bars[1]), "One image", times, lambda v: f"{v:,.0f} µs" if v >= 100 else f"{v:.1f} µs"
        )
        labels = split.test.labels
        note = (
            f"float: the same network with real-valued weights ({100 * twin.accuracy(labels):.1f} % right); its "
            "time is that of the fastest engine that is installed here. One thread."
        )
        figure.supxlabel(note, x=0.995, ha="right", fontsize=9, color=style.GREY)
        write_bytes(path, style.png(figure, dpi=150))


def draw_digits(axis: Any, side: Side, split: Split, columns: int = 10, rows: int = 13) -> None:
    """Held-out digits with the engine's answer below the corner of each: first the wrong ones, with the truth."""
    from matplotlib.patches import Rectangle

    images, labels = split.test.images[..., 0], split.test.labels
    answers = side.logits.argmax(1)
    wide, high = 11, 12  # of a cell
    sheet = np.zeros((rows * high, columns * wide))
    order = np.argsort(answers == labels, kind="stable")[: rows * columns]
    for place, i in enumerate(order):
        x, y = place % columns * wide, place // columns * high
        sheet[y + 1 : y + 9, x + 1 : x + 9] = images[i]
        right = answers[i] == labels[i]
        answer = {"color": style.GREEN if right else style.ORANGE, "fontsize": 9, "fontweight": "bold"}
        axis.text(x + 9.2, y + 10, split.classes[answers[i]], ha="center", va="center", **answer)
        if not right:
            truth = {"color": style.INK, "fontsize": 9, "fontweight": "bold"}
            axis.text(x + 1.6, y + 10, split.classes[labels[i]], ha="center", va="center", **truth)
            axis.add_patch(Rectangle((x - 0.4, y - 0.4), wide - 0.2, high - 0.4, fill=False, ec=style.ORANGE, lw=1.2))
    axis.imshow(sheet, cmap="Greys", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(f"{len(labels)} held-out digits at 1 bit: {100 * side.accuracy(labels):.1f} % right")
    wrong = int((answers != labels).sum())
    legend = (
        f"{len(order)} of them, the {wrong} wrong ones first. Right below: the engine's\n"
        "answer; left below: the truth, where it differs."
    )
    axis.text(0, rows * high + 1.5, legend, color=style.GREY, fontsize=9, va="top")
    axis.set_anchor("N")
    axis.axis("off")


def draw_curve(axis: Any, history: list[dict[str, float]]) -> None:
    """Accuracy by epoch."""
    epochs = [int(row["epoch"]) for row in history]
    style.axis(axis, title="Accuracy by epoch", x="epoch")
    sides = [[row[name] for row in history] for name in ("accuracy", "test_accuracy")]
    for values, colour in zip(sides, (style.GREY, style.GREEN), strict=True):
        axis.plot(epochs, values, color=colour)
    style.percent(axis)
    style.whole_numbers(axis)
    words = [f"{name} {100 * values[-1]:.1f} %" for name, values in zip(("training", "held-out"), sides, strict=True)]
    style.label_ends(axis, epochs[-1], [values[-1] for values in sides], words, (style.GREY, style.GREEN))


def draw_bits(axis: Any, model: nn.Module) -> None:
    """The weight signs of the first binary convolution: a row per filter, a 3x3 square per input channel."""
    layer = next(m for m in model.modules() if isinstance(m, BinaryConv2d))
    with torch.no_grad():
        bits = layer.weight_binarizer(layer.weight).gt(0).numpy()
    filters, channels, height, width = bits.shape
    sheet = np.full((filters * (height + 1), channels * (width + 1)), np.nan)
    for o, c in np.ndindex(filters, channels):
        sheet[o * (height + 1) : o * (height + 1) + height, c * (width + 1) : c * (width + 1) + width] = bits[o, c]
    from matplotlib.colors import ListedColormap

    axis.imshow(sheet, cmap=ListedColormap([style.LIGHT, style.GREEN]), vmin=0, vmax=1, interpolation="nearest")
    axis.set(title=f"{bits.size:,} learned weights in {bits.size // 8} bytes", xticks=[], yticks=[])
    axis.set_anchor("NW")
    axis.set(xlabel=f"{channels} input channels; dark +1, light -1", ylabel=f"{filters} filters")
    axis.spines[:].set_visible(False)


def draw_bars(axis: Any, title: str, values: dict[str, float], text: Callable[[float], str]) -> None:
    """A bar for the 1-bit network, above those of its float twin; the title compares it with the lowest of these."""
    axis.barh(list(values), list(values.values()), color=[style.GREEN] + [style.PALE] * (len(values) - 1), height=0.6)
    for y, value in enumerate(values.values()):
        axis.annotate(text(value), (value, y), (5, 0), textcoords="offset points", va="center", fontweight="bold")
    one, best = list(values.values())[:2]
    axis.set(title=f"{title}: {best / one:.{0 if best / one >= 10 else 1}f} times less", xticks=[])
    axis.set_xlim(0, 1.35 * max(values.values()))
    axis.set_ylim(max(len(values), 4) - 0.5, -0.5)
    axis.spines[["left", "bottom"]].set_visible(False)


def main() -> None:
    """Run the demo from scratch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out
    if (out / "last.ckpt").exists():
        shutil.rmtree(out)  # yesterday's demo
    began = time.monotonic()
    run(out)
    print(f"{time.monotonic() - began:.0f} s; model {out / 'digits.bbg'}, picture {out / 'digits.png'}")


if __name__ == "__main__":
    main()
