"""Ranges of 8-bit edges: from training images or not at all, and never certified by the images they were taken from.

Before, `convert` took them from whatever the example was: noise, zeros or one picture cost up to 84 points, and the
report, made from that same picture, said that every image keeps its best class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg.conversion import Ranges, record_ranges
from bbg.conversion.ranges import EVERY
from bbg.conversion.search import Histogram
from bbg.data import ImageSet, Split, open_data
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


@pytest.fixture(scope="module")
def trained(digits: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(dataset="digits", network="resnet8", width=8, act="rprelu", epochs=3, batch_size=32, lr=1e-2)
    folder = tmp_path_factory.mktemp("run")
    train(recipe.changed({"crop_padding": 0, "flip": False}), digits, folder, progress=False)
    return folder / "last.ckpt"


def inputs(split: Split, part: slice) -> Tensor:
    assert isinstance(split.test, ImageSet)
    return torch.from_numpy(split.preprocess.normalize(split.test.images[part]))


def accuracy(file: Path, split: Split) -> float:
    assert isinstance(split.test, ImageSet)
    return float((bbg.load(file, threads=1)(split.test.images).argmax(1) == split.test.labels).mean())


EXAMPLES: dict[str, Callable[[Split], Tensor]] = {
    "one picture": lambda split: inputs(split, slice(0, 1)),
    "pictures": lambda split: inputs(split, slice(0, 32)),
    "zeros": lambda split: torch.zeros(4, 1, 8, 8),
    "noise": lambda split: torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "none known"])
def test_the_example_never_costs_accuracy(
    example: str, recorded: bool, trained: Path, digits: Split, tmp_path: Path
) -> None:
    state, file = Checkpoint.load(trained), tmp_path / "net.bbg"
    calibration = Ranges.from_dict(state.ranges) if recorded else None
    report = bbg.convert(
        state.network(), file, EXAMPLES[example](digits), calibration=calibration, preprocess=state.preprocess
    )
    assert state.history[-1]["test_accuracy"] - accuracy(file, digits) <= 0.01
    kinds = {op.name: op.kind for op in read(file).graph.ops}
    assert kinds["stem.0"] == "byte_conv"  # pixels are bytes already
    assert kinds["head"] == ("byte_conv" if recorded else "conv")
    assert report.real == (() if recorded else ("head",))
    assert ("head" in str(report).split("in float32, since")[-1]) is not recorded
    notes = read(file).provenance
    assert notes.get("ranges") == ("recorded in training on 512 images" if recorded else None)


def test_int8_without_ranges_is_obeyed_and_called_unverified(
    trained: Path, digits: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, file = Checkpoint.load(trained), tmp_path / "net.bbg"
    with caplog.at_level(logging.WARNING):
        report = bbg.convert(
            state.network(), file, inputs(digits, slice(0, 1)), edges="int8", preprocess=state.preprocess
        )
    said = "unverified, taken from the 1 image of the example"
    assert read(file).provenance["ranges"] == said
    assert report.edges is not None
    assert not report.edges.verified
    for place in (str(report).replace("\n", " "), report.as_dict()["warnings"], caplog.text):
        assert said in place


CALIBRATIONS: dict[str, Callable[[Split, Path], Any]] = {
    "a data set": lambda split, folder: split.train,
    "bytes": lambda split, folder: split.train.images,  # type: ignore[attr-defined]
    "floats": lambda split, folder: split.preprocess.normalize(split.train.images),  # type: ignore[attr-defined]
    "a tensor": lambda split, folder: torch.from_numpy(split.preprocess.normalize(split.train.images)),  # type: ignore[attr-defined]
    "a folder": lambda split, folder: _as_files(split, folder),
}


def _as_files(split: Split, folder: Path) -> Path:
    from PIL import Image

    for i in range(150):
        pixels, label = split.train.read(i)
        (folder / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(folder / "images" / str(label) / f"{i}.png")
    return folder / "images"


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_calibration_in_every_form(kind: str, trained: Path, digits: Split, tmp_path: Path) -> None:
    state, file = Checkpoint.load(trained), tmp_path / "net.bbg"
    report = bbg.convert(
        state.network(),
        file,
        torch.zeros(2, 1, 8, 8),
        calibration=CALIBRATIONS[kind](digits, tmp_path),
        preprocess=state.preprocess,
    )
    count = 150 if kind == "a folder" else 512
    held_back = count // 5
    assert report.edges is not None
    assert report.edges.verified
    assert report.edges.ranges == f"taken from {count - held_back} images of the calibration"
    assert report.edges.difference is not None
    assert report.edges.difference.images == held_back  # which the ranges were not taken from
    assert report.edges.clipped < 0.01
    assert report.real == ()
    assert state.history[-1]["test_accuracy"] - accuracy(file, digits) <= 0.01


def test_few_images_are_not_trusted(trained: Path, digits: Split, tmp_path: Path) -> None:
    state = Checkpoint.load(trained)
    few = inputs(digits, slice(0, 20))
    report = bbg.convert(state.network(), tmp_path / "n", few, calibration=few, preprocess=state.preprocess)
    assert report.edges is not None
    assert report.edges.ranges == "unverified (fewer than 100 images), taken from 16 images of the calibration"
    assert "100 or more" in report.warnings[0]


@pytest.mark.parametrize("kind", ["one picture", "zeros"])
def test_the_same_image_again_and_again_is_one_image(kind: str, trained: Path, digits: Split, tmp_path: Path) -> None:
    state = Checkpoint.load(trained)
    again = inputs(digits, slice(0, 1)).expand(500, -1, -1, -1) if kind == "one picture" else torch.zeros(500, 1, 8, 8)
    report = bbg.convert(state.network(), tmp_path / "n", again, calibration=again, preprocess=state.preprocess)
    assert report.edges is not None
    assert not report.edges.verified
    assert "fewer than 100 images), taken from 1 image of the calibration" in report.warnings[0]


NO_PIXELS: dict[str, Callable[[Tensor, Preprocess], Tensor]] = {
    "noise": lambda x, how: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
    "pixels up to 255": lambda x, how: (x * how.std[0] + how.mean[0]) * 255,
    "normalised twice": lambda x, how: (x - how.mean[0]) / how.std[0],
}


@pytest.mark.parametrize("case", NO_PIXELS)
def test_a_calibration_of_no_pixels_is_refused(case: str, trained: Path, digits: Split, tmp_path: Path) -> None:
    state, images = Checkpoint.load(trained), inputs(digits, slice(0, 200))
    given = NO_PIXELS[case](images, state.preprocess)
    with pytest.raises(BbgError, match=r"which are no pixels: the preprocess makes -0\.812 to 1\.85 of them"):
        bbg.convert(state.network(), tmp_path / "n", images, calibration=given, preprocess=state.preprocess)


def test_numbers_outside_the_ranges_are_counted(trained: Path, digits: Split, tmp_path: Path) -> None:
    state, file = Checkpoint.load(trained), tmp_path / "net.bbg"
    found = Ranges.from_dict(state.ranges)
    assert found is not None
    narrow = Ranges(
        {k: v / 8 for k, v in found.low.items()}, {k: v / 8 for k, v in found.high.items()}, 512, "training"
    )
    example = inputs(digits, slice(0, 200))
    report = bbg.convert(state.network(), file, example, calibration=narrow, preprocess=state.preprocess)
    assert report.edges is not None
    assert report.edges.clipped > 0.2
    assert report.edges.difference is not None
    assert report.edges.difference.top1 is not None
    assert report.edges.difference.top1 < 0.99
    assert "change the best class of" in report.as_dict()["warnings"]


def test_the_ranges_of_a_training_cover_what_training_images_reach(trained: Path, digits: Split) -> None:
    state = Checkpoint.load(trained)
    recorded = Ranges.from_dict(state.ranges)
    again = record_ranges(state.network(), digits.train, digits.preprocess)
    assert recorded is not None
    assert recorded.images == again.images == 512
    assert recorded.low.keys() == again.low.keys() == {"norm"}
    # By hand: the values that the head reads, on the same 512 images, and an eighth of their range beyond.
    pixels = np.linspace(0, len(digits.train) - 1, 512).round().astype(int)
    network = state.network()
    seen: list[Tensor] = []
    network.norm.register_forward_hook(lambda m, a, y: seen.append(y))  # type: ignore[union-attr]
    with torch.no_grad():
        network(torch.from_numpy(digits.preprocess.normalize(digits.train.images[pixels])))  # type: ignore[attr-defined]
    low, high = seen[0].amin(0), seen[0].amax(0)
    assert torch.allclose(recorded.low["norm"], low - (high - low) / 8, atol=1e-5)
    assert torch.allclose(recorded.high["norm"], high + (high - low) / 8, atol=1e-5)


class Plain(nn.Module):
    """A convolution of the pixels, and one behind a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


REFUSED: dict[str, tuple[Any, str]] = {
    "a word": (["a"], "calibration is list; give training images"),
    "bytes without a preprocess": (np.zeros((4, 8, 8, 3), np.uint8), r"calibration is uint8 \[4, 8, 8, 3\]"),
    "another size": (np.zeros((4, 3, 9, 8), np.float32), r"float32 \[4, 3, 9, 8\]; .* float32 \[N, 3, 8, 8\]"),
    "none": (np.zeros((0, 3, 8, 8), np.float32), r"\[0, 3, 8, 8\]"),
    "not finite": (np.full((4, 3, 8, 8), np.nan, np.float32), "not finite"),
    "a folder without a preprocess": ("somewhere", "by a folder needs a preprocess"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_calibrations_are_refused(case: str, tmp_path: Path) -> None:
    given, words = REFUSED[case]
    with pytest.raises(BbgError, match=words):
        bbg.convert(Plain(), tmp_path / "n", torch.zeros(2, 3, 8, 8), calibration=given, edges="int8")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="no images below"):
        bbg.convert(
            Plain(), tmp_path / "n", torch.zeros(2, 3, 8, 8), calibration=tmp_path, edges="int8",
            preprocess=Preprocess(8),
        )  # fmt: skip


def test_ranges_of_another_network_are_not_used(tmp_path: Path) -> None:
    other = Ranges({"elsewhere": torch.zeros(4)}, {"elsewhere": torch.ones(4)}, 512, "training")
    with pytest.raises(BbgError, match=r"no range is known of what layers.2 read; give calibration="):
        bbg.convert(
            Plain(), tmp_path / "n", torch.zeros(2, 3, 8, 8), calibration=other, edges="int8", preprocess=Preprocess(8)
        )


@pytest.mark.parametrize("damage", [{"low": 3}, {"low": {"a": torch.ones(2)}}, {"images": None}, {"low": {"a": 1.0}}])
def test_damaged_ranges_of_a_checkpoint_are_refused(damage: dict[str, Any]) -> None:
    whole = Ranges({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, 512, "training")
    assert Ranges.from_dict(whole.to_dict()) is not None
    with pytest.raises(BbgError, match="stored ranges are damaged"):
        Ranges.from_dict({**whole.to_dict(), **damage})


# ---- the range of least error


@pytest.mark.parametrize("seed", range(3))
def test_the_range_of_least_error_is_no_worse_than_any_other(seed: int) -> None:
    """Against rounding the numbers themselves, for ranges on a grid of both ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, 40, 40, generator=generator)
    x[:, 1] = x[:, 1].relu()
    x[:, 2] = x[:, 2] ** 3  # a few numbers far out
    x[:, 3] = torch.rand(4, 40, 40, generator=generator) - 5
    x[:, 4] = 0.25
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    histogram = Histogram(low, high)
    for part in x.split(3):
        histogram.add(part)

    def error(least: Tensor, most: Tensor) -> Tensor:
        scale = torch.where(most > least, most - least, 255.0)[:, None, None] / 255
        u = ((x - least[:, None, None]) / scale).clamp(0, 255).round()
        return (u * scale + least[:, None, None] - x).pow(2).mean((0, 2, 3))

    found = error(*(end.float() for end in histogram.best_range()))
    width = high - low
    for below in torch.linspace(0, 0.5, 9):
        for above in torch.linspace(0, 0.5, 9):
            assert (found <= 1.2 * error(low + below * width, high - above * width) + 1e-12).all()


def test_corrected_biases_keep_the_mean_of_each_output(tmp_path: Path) -> None:
    """On the images of the calibration the mean of each output is that of float32; without correction it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False)).eval()
    with torch.no_grad():
        model[2].weight.mul_(torch.logspace(0, -3, 6)[None, :, None, None])  # small weights beside large ones
        model[2].weight.add_(0.003)
    x = torch.rand(40, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    seen = x[torch.arange(40) % EVERY != EVERY - 1]
    bbg.convert(model, tmp_path / "n.bbg", x, calibration=x, edges="int8")
    with torch.no_grad():
        wanted = model(seen).mean((0, 2, 3)).numpy()
    corrected = np.abs(bbg.load(tmp_path / "n.bbg", 1)(seen.numpy()).mean((0, 2, 3)) - wanted).max()
    bbg.convert(model, tmp_path / "n.bbg", x, calibration=Ranges(*_ends(model, seen), 32, "training"), edges="int8")
    plain = np.abs(bbg.load(tmp_path / "n.bbg", 1)(seen.numpy()).mean((0, 2, 3)) - wanted).max()
    assert corrected < 0.2 * plain


def _ends(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with torch.no_grad():
        hidden = model[:2](x)  # type: ignore[index]
    values = {"input": x, "0": hidden, "1": hidden}
    return tuple({name: getattr(v, end)((0, 2, 3)) for name, v in values.items()} for end in ("amin", "amax"))  # type: ignore[return-value]


def test_a_channel_that_is_always_0_costs_the_others_no_precision(tmp_path: Path) -> None:
    """Its bytes had the scale 1, and so the weights of the convolution behind it were rounded to a few steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)).eval()
    with torch.no_grad():
        model[0].bias[2] = -1000.0
    images = torch.randn(120, 3, 8, 8)
    bbg.convert(model, tmp_path / "net.bbg", images[:4], calibration=images, edges="int8")
    with torch.no_grad():
        wanted = model(images).numpy()
    given = bbg.load(tmp_path / "net.bbg")(images.numpy())
    assert np.abs(given - wanted).max() <= 0.02 * np.abs(wanted).max()
