"""Preprocessing against torchvision's evaluation transform, and every one that must be refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from support.pictures import picture

from bbg.errors import BbgError
from bbg.image import PRESETS, Preprocess


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    pixels = np.stack([picture(8, 9), picture(8, 9)])
    mean, std = pixels.mean((0, 1, 2)) / 255, pixels.std((0, 1, 2)) / np.float32(255)
    made = Preprocess(np.int64(8), np.int32(9), mean=mean, std=list(std))
    assert made == Preprocess(8, 9, mean=tuple(float(m) for m in mean), std=tuple(float(s) for s in std))
    assert made == Preprocess(np.array([8, 8]), 9, mean=torch.from_numpy(mean), std=torch.from_numpy(std))
    assert Preprocess.from_json(json.loads(json.dumps(made.to_json()))) == made
    with pytest.raises(BbgError, match=r"preprocess mean is .*device='meta'"):
        Preprocess(8, mean=torch.zeros(3, device="meta"))


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (300, 257), (32, 32), (8, 500)])
@pytest.mark.parametrize("preprocess", [Preprocess(24, 32), Preprocess((16, 24), 25), Preprocess((20, 28))])
def test_pixels_are_torchvisions(shape: tuple[int, int], preprocess: Preprocess) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(picture(*shape))
    if preprocess.resize is None:
        steps = [transforms.Resize(preprocess.size)]
    else:
        steps = [transforms.Resize(preprocess.resize), transforms.CenterCrop(preprocess.size)]
    expected = np.array(transforms.Compose(steps)(image))
    assert np.array_equal(preprocess.apply(image), expected)


def test_normalize_is_totensor_and_normalize() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    preprocess = PRESETS["imagenet"]
    pixels = preprocess.apply(picture(300, 400))
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)])
    x = preprocess.normalize(pixels[None])
    assert x.shape == (1, 3, 224, 224)
    assert x.dtype == np.float32
    assert np.abs(x[0] - steps(pixels).numpy()).max() < 1e-6


def test_an_image_of_the_right_size_is_left_alone() -> None:
    array = picture(32, 32)
    assert np.array_equal(PRESETS["cifar10"].apply(array), array)
    grey = picture(8, 8)[:, :, :1]
    assert np.array_equal(PRESETS["digits"].apply(grey), grey)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    preset = Preprocess.of(name)
    assert Preprocess.from_json(json.loads(json.dumps(preset.to_json()))) == preset
    assert Preprocess.of(preset) is preset


def test_digits_are_normalised_by_their_own_statistics() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels = np.round(datasets.load_digits().images * 255 / 16).astype(np.uint8)
    x = PRESETS["digits"].normalize(pixels[:, :, :, None])
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3


def test_a_resize_that_would_make_a_bomb_is_refused() -> None:
    with pytest.raises(BbgError, match="allowed are at most"):
        Preprocess(224, 256).apply(np.zeros((1, 60_000, 3), np.uint8))
    assert Preprocess(2, 2).apply(np.zeros((1, 500, 3), np.uint8)).shape == (2, 2, 3)


BAD_PREPROCESS = {
    "an unknown mode": ({"size": 8, "mode": "YUV"}, "mode is 'YUV'"),
    "a mode that is no text": ({"size": 8, "mode": []}, "mode is []"),
    "a zero size": ({"size": 0}, "size is (0, 0)"),
    "a large resize": ({"size": 8, "resize": 8900}, "resize a picture to 8900 x 8900 pixels; allowed are at most 32"),
    "a large size": ({"size": (5000, 8000)}, "resize a picture to 8000 x 5000 pixels; allowed are at most 32"),
    "three sizes": ({"size": (1, 2, 3)}, "size is (1, 2, 3)"),
    "a small resize": ({"size": (8, 16), "resize": 12}, "resize is 12"),
    "a short mean": ({"size": 8, "mean": (0.5,)}, "mean is (0.5,)"),
    "an infinite mean": ({"size": 8, "mean": (0.5, 0.5, float("inf"))}, "finite numbers"),
    "a zero std": ({"size": 8, "std": (1.0, 0.0, 1.0)}, "each must be at least 1e-6"),
}


@pytest.mark.parametrize("case", BAD_PREPROCESS)
def test_a_bad_preprocess_is_refused(case: str) -> None:
    arguments, message = BAD_PREPROCESS[case]
    with pytest.raises(BbgError, match=re.escape(message)):
        Preprocess(**arguments)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BbgError, match=r"give a bbg\.Preprocess or one of cifar10, cifar100, imagenet, digits"):
        Preprocess.of("mnist")


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 3, 8, 8), np.uint8)]
)
def test_normalize_takes_uint8_batches_only(pixels: np.ndarray) -> None:
    with pytest.raises(BbgError, match="normalize takes uint8"):
        PRESETS["cifar10"].normalize(pixels)
