"""The engine's public face: what it returns, and what it refuses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bbg
from bbg.cpu import cores
from bbg.engine import Engine, Prediction, load
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output, pack_bits, reference
from bbg.graph import file as packed
from bbg.graph.file import PackedModel
from bbg.heads import Classification
from bbg.image import Preprocess

CHANNELS, SIZE, CLASSES = 3, 16, 5


def classifier() -> Graph:
    """A small network with a shortcut, a widening shortcut, pools and a linear layer."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def binary(name: str, inputs: tuple[str, str], fan_in: int, channels: int) -> Op:
        attributes = {"kernel": (3, 3), "padding": (1, 1), "channels": channels}
        weight = pack_bits(rng.random((channels, 9 * fan_in)) < 0.5, channels)
        tensors = {"weight": weight, "epilogue": normal(5, channels) * 0.1}
        rows = ("scale", "bias", "gate", "above", "below")
        return Op(name, "binary_conv", inputs, f"{name}.r", f"{name}.b", attributes, tensors, rows)

    stem = {"kernel": (3, 3), "padding": (1, 1), "channels": 32}
    whole = {"kernel": (8, 8), "channels": CLASSES}
    ops = (
        Op("stem", "conv", ("x",), "stem.r", "stem.b", stem, {"weight": normal(32, 3, 3, CHANNELS)}),
        binary("a", ("stem.b", "stem.r"), 32, 32),
        Op("pool", "max_pool", ("a.r",), "pool.r", "pool.b", {"kernel": (2, 2), "stride": (2, 2)}),
        Op("wide", "match_channels", ("pool.r",), "wide.r", None, {"channels": 64}),
        binary("b", ("pool.b", "wide.r"), 32, 64),
        Op("linear", "conv", ("b.r",), "y", None, whole, {"weight": normal(CLASSES, 8, 8, 64)}),
    )
    return Graph("x", (CHANNELS, SIZE, SIZE), ops, (Output.of_flat("", "y", CLASSES),))


PREPROCESS = Preprocess(SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
LABELS = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def engine() -> Engine:
    return Engine(PackedModel(classifier(), PREPROCESS, LABELS, {"made": "by hand"}, Classification()), threads=2)


def floats(images: int = 2) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((images, CHANNELS, SIZE, SIZE)).astype(np.float32)


def pixels(images: int = 2) -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (images, SIZE, SIZE, CHANNELS), dtype=np.uint8)


# ---- what it returns -----------------------------------------------------------------------------------------------


def test_one_nameless_output_is_an_array(engine: Engine) -> None:
    x = floats()
    want = reference.run(classifier(), x)["y"].reshape(2, CLASSES)
    got = engine(x)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_named_outputs_are_a_dict_and_bits_are_signs() -> None:
    graph = classifier()
    outputs = (
        Output.of_flat("scores", "y", CLASSES),
        Output.of_map("map", "a.r", (32, SIZE, SIZE)),
        Output.of_map("signs", "a.b", (32, SIZE, SIZE)),
        Output.of_flat("flat", "a.b", 32 * SIZE * SIZE),
    )
    got = Engine(PackedModel(replace(graph, outputs=outputs, structure="dict")))(floats(3))
    assert isinstance(got, dict)
    assert {name: array.shape for name, array in got.items()} == {
        "scores": (3, CLASSES),
        "map": (3, 32, SIZE, SIZE),
        "signs": (3, 32, SIZE, SIZE),
        "flat": (3, 32 * SIZE * SIZE),
    }
    np.testing.assert_array_equal(got["signs"], np.where(got["map"] >= 0, 1, -1))
    np.testing.assert_array_equal(got["flat"], got["signs"].reshape(3, -1))


def test_uint8_images_are_normalised_as_stored(engine: Engine) -> None:
    images = pixels(3)
    np.testing.assert_allclose(engine(images), engine(PREPROCESS.normalize(images)), rtol=0, atol=1e-4)


def test_floats_become_the_nearest_bytes() -> None:
    """Halves to even and clipped, in rows of any length, where the first layer reads bytes."""
    width = 150
    weight = np.eye(3, dtype=np.int8).reshape(3, 1, 1, 3)
    op = Op("same", "byte_conv", ("x",), "y", None, {"kernel": (1, 1), "channels": 3}, {"weight": weight})
    graph = Graph("x", (3, 2, width), (op,), (Output.of_map("", "y", (3, 2, width)),), "bytes")
    engine = Engine(PackedModel(graph, Preprocess((2, width), mean=(0.0, 0.4, 0.3), std=(1 / 255, 0.3, 0.25))))
    x = 3 * np.random.default_rng(0).standard_normal((2, 3, 2, width)).astype(np.float32)
    x[:, 0] = np.arange(2 * width, dtype=np.float32).reshape(2, width) - 10.5
    scale, bias = (np.float32(v).reshape(3, 1, 1) for v in engine.preprocess.affine())  # type: ignore[union-attr]
    want = np.clip(np.rint((x - bias) / scale), 0, 255)
    assert {0.0, 255.0} < set(want.ravel().tolist())
    np.testing.assert_array_equal(engine(x), want)
    for number in (np.nan, np.inf, -np.inf):
        x[1, 2, 1, width - 1] = number
        with pytest.raises(BbgError, match="finite"):
            engine(x)


def test_any_memory_layout_will_do(engine: Engine) -> None:
    x = floats(4)
    np.testing.assert_array_equal(engine(x[::2]), engine(np.ascontiguousarray(x[::2])))
    np.testing.assert_array_equal(engine(np.asfortranarray(x)), engine(x))
    x.flags.writeable = False
    engine(x)


def test_minus_zero_is_plus_one() -> None:
    sign = Op("sign", "pointwise", ("x",), bits="b")
    engine = Engine(PackedModel(Graph("x", (3, 1, 1), (sign,), (Output.of_flat("", "b", 3),))))
    x = np.array([-0.0, 0.0, -1e-45], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(engine(x), [[1, 1, -1]])


def test_predict_ranks_classes(engine: Engine, tmp_path: Path) -> None:
    array = pixels(1)[0]
    logits = np.asarray(engine(array[None]), np.float64)[0]
    odds = np.exp(logits - logits.max())
    got = engine.predict(array, top=3)
    assert engine.predict(array, top=np.int64(3)) == got  # type: ignore[arg-type]
    assert [p.label for p in got] == [LABELS[i] for i in np.argsort(-odds)[:3]]
    assert isinstance(got[0], Prediction)
    np.testing.assert_allclose([p.score for p in got], np.sort(odds / odds.sum())[::-1][:3], rtol=1e-6)
    assert sum(p.score for p in engine.predict(array, top=99)) == pytest.approx(1)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    (tmp_path / "image.png").write_bytes(buffer.getvalue())
    for same in (tmp_path / "image.png", str(tmp_path / "image.png"), buffer.getvalue(), Image.fromarray(array)):
        assert engine.predict(same, top=3) == got
    assert engine.predict([array, buffer.getvalue()], top=3) == [got, got]
    assert engine.predict([]) == []


def test_without_labels_classes_have_numbers() -> None:
    best = Engine(PackedModel(classifier(), PREPROCESS, head=Classification())).predict(pixels(1)[0], top=1)
    assert best[0].label in {str(i) for i in range(CLASSES)}


def test_attributes_profile_and_summary(engine: Engine) -> None:
    assert engine.input_shape == (CHANNELS, SIZE, SIZE)
    assert engine.labels == LABELS
    assert engine.preprocess == PREPROCESS
    assert engine.threads == 2
    for images in (floats(1), pixels(1)):
        times = engine.profile(images)
        assert [t.name for t in times] == ["stem", "a", "pool", "wide", "b", "linear"]
        assert all(t.seconds >= 0 and t.kernels == engine.kernels for t in times)
        assert max(t.seconds for t in times) > 0
    summary = engine.summary()
    assert all(t.name in summary for t in times)
    assert f"{32 * 9 * 32 * SIZE * SIZE:,}" in summary
    assert isinstance(summary, str)
    assert all(f"<td>{t.name}</td>" in summary._repr_html_() for t in times)


def test_an_engine_says_what_it_is_in_one_line(engine: Engine) -> None:
    line = repr(engine)
    assert line.startswith(f"<bbg.Engine {CHANNELS}x{SIZE}x{SIZE}, {len(LABELS)} classes, ")
    assert line.endswith(f" of the products at 1 bit, {engine.kernels}, 2 threads>")
    assert "\n" not in line
    nasty = Engine(PackedModel(classifier(), PREPROCESS, LABELS, provenance={"note": "<script>"}), 1)
    shown = nasty._repr_html_()
    assert "&lt;bbg.Engine" in shown
    assert "<td>&lt;script&gt;</td>" in shown
    assert nasty.summary()._repr_html_() in shown


def test_load_reads_a_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "net.bbg"
    packed.write(path, PackedModel(classifier(), PREPROCESS, LABELS))
    engine = bbg.load(path, threads=1)
    assert engine.labels == LABELS
    np.testing.assert_array_equal(engine(floats()), Engine(packed.read(path), 2)(floats()))
    path.unlink()  # nothing is read again
    engine(floats())


def test_threads_default_to_physical_cores() -> None:
    assert Engine(PackedModel(classifier())).threads == cores() >= 1


# ---- how often it is called ----------------------------------------------------------------------------------------


def test_the_interpreter_runs_on_while_the_engine_works() -> None:
    engine = Engine(PackedModel(classifier()), threads=1)
    x = floats(2000)
    ticks = 0
    worker = threading.Thread(target=engine, args=(x,))
    worker.start()
    while worker.is_alive():
        ticks += 1
        time.sleep(0)
    assert ticks > 10  # with the lock held there would be one or two


def test_an_error_in_one_call_leaves_the_engine_usable(engine: Engine) -> None:
    want = engine(floats())
    for _ in range(3):
        with pytest.raises(BbgError):
            engine(np.full((1, CHANNELS, SIZE, SIZE), np.nan, np.float32))
        np.testing.assert_array_equal(engine(floats()), want)


def test_many_engines_come_and_go() -> None:
    for _ in range(50):
        Engine(PackedModel(classifier()), threads=3)
    assert threading.active_count() < 10


# ---- what it refuses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, CHANNELS, SIZE, SIZE)),
        np.zeros((1, CHANNELS, SIZE, SIZE), np.float16),
        np.zeros((1, CHANNELS, SIZE, SIZE), np.int64),
        np.zeros((CHANNELS, SIZE, SIZE), np.float32),
        np.zeros((1, SIZE, SIZE, CHANNELS), np.float32),
        np.zeros((1, CHANNELS, SIZE, SIZE + 1), np.float32),
        np.zeros((0, CHANNELS, SIZE, SIZE), np.float32),
        np.zeros((1, CHANNELS, SIZE, SIZE), np.uint8),
        np.zeros((1, CHANNELS, SIZE, SIZE), ">f4"),
        np.zeros((), np.float32),
        [[1.0]],
        None,
        "cat.jpg",
    ],
    ids=lambda bad: f"{getattr(bad, 'dtype', type(bad).__name__)}{list(getattr(bad, 'shape', ()))}",
)
def test_wrong_inputs(engine: Engine, bad: object) -> None:
    with pytest.raises(BbgError, match=r"the input is .*; give a numpy array, float32 \[N, 3, 16, 16\] or uint8"):
        engine(bad)  # type: ignore[arg-type]
    with pytest.raises(BbgError, match="the input is"):
        engine.profile(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 15, 15), (39, 1, 7, 3)])
def test_numbers_that_are_not_finite(engine: Engine, number: float, place: tuple[int, ...]) -> None:
    x = floats(40)
    x[place] = number
    with pytest.raises(BbgError, match="NaN or an infinity"):
        engine(x)


def test_bytes_and_images_need_preprocessing() -> None:
    engine = Engine(PackedModel(classifier()))
    for call in (lambda: engine(pixels()), lambda: engine.profile(pixels()), lambda: engine.predict(pixels()[0])):
        with pytest.raises(BbgError, match="without preprocessing"):
            call()


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", None, True])
def test_top_is_a_positive_integer(engine: Engine, bad: object) -> None:
    with pytest.raises(BbgError, match="top is"):
        engine.predict(pixels(1)[0], top=bad)  # type: ignore[arg-type]


def test_predict_wants_a_head_and_an_image(engine: Engine) -> None:
    graph = classifier()
    outputs = (Output.of_flat("a", "y", CLASSES), Output.of_flat("b", "y", CLASSES))
    with pytest.raises(BbgError, match="without a head"):
        Engine(PackedModel(replace(graph, outputs=outputs, structure="dict"), PREPROCESS)).predict(pixels(1)[0])
    with pytest.raises(BbgError, match="image"):
        engine.predict(b"no image")


@pytest.mark.parametrize("bad", [0, -2, 1.0, "2", 5000, True])
def test_threads_are_a_positive_integer(bad: object) -> None:
    with pytest.raises(BbgError, match="threads is"):
        Engine(PackedModel(classifier()), threads=bad)  # type: ignore[arg-type]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="cannot be read"):
        load(tmp_path / "nothing.bbg")
    with pytest.raises(BbgError, match=r"called 'resnet2000'; the zoo has .*did you mean 'resnet20-cifar10'"):
        load("resnet2000")


def test_the_runtime_imports_no_torch() -> None:
    code = "import sys, bbg.engine; print([m for m in ('torch', 'PIL', 'rich', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer takes all addresses for itself")
def test_outputs_beyond_the_memory_are_a_sentence(tmp_path: Path) -> None:
    """24 GB of them, where the process may have 8."""
    wide = Op("wide", "match_channels", ("x",), "y", None, {"channels": 60_000})
    file = tmp_path / "wide.bbg"
    packed.write(file, PackedModel(Graph("x", (1, 1, 1), (wide,), (Output.of_flat("", "y", 60_000),))))
    code = f"""
import resource
import numpy as np, bbg
engine = bbg.load({str(file)!r}, threads=1, limits=bbg.Limits(2**30, 2**40))
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    engine(np.zeros((100_000, 1, 1, 1), np.float32))
except bbg.BbgError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "there is no memory for the outputs of 100,000 images; give fewer at once\n"


@pytest.mark.parametrize("form", [np.float32, np.uint8])
def test_inputs_beyond_the_memory_are_a_sentence(engine: Engine, form: type) -> None:
    """An array may stand for more numbers than it has."""
    channels, height, width = engine.input_shape
    shape = (channels, height, width) if form is np.float32 else (height, width, channels)
    few = np.broadcast_to(np.ones((1, *shape), form), (3, *shape))
    assert np.array_equal(engine.run(few)[""], engine.run(few.copy())[""])
    for call in (engine, engine.profile):
        with pytest.raises(BbgError, match=r"there is no memory for|too big|exceeded"):
            call(np.broadcast_to(np.ones((1, *shape), form), (2**40, *shape)))
