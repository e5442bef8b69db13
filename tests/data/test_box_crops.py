"""Boxes stay on what they are of, whatever is done to the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.voc import CLASSES, write_voc
from torchvision import tv_tensors
from torchvision.transforms import v2

from bbg.data import BoxSet, open_data
from bbg.data.box_crops import BoxPictures, IoUCrop
from bbg.data.loader import Loader
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess

SIZE = (60, 80)
WAYS = {
    "as it is": BoxPictures(),
    "mirrored": BoxPictures(flip=True),
    "cropped": BoxPictures(scale=0.3),
    "expanded": BoxPictures(scale=1.0, expand=3.0),
    "all": BoxPictures(scale=0.3, expand=2.0, flip=True),
}


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> BoxSet:
    """Rectangles of two colours."""
    data = open_data("voc", write_voc(tmp_path_factory.mktemp("voc"), 16, 2), SIZE).train
    assert isinstance(data, BoxSet)
    return data


def of_class(pixels: np.ndarray, number: int) -> np.ndarray:
    """Where the colour of a class is."""
    red, green, blue = (pixels[..., i].astype(int) for i in range(3))
    return (red - blue > 90) & (green < 100) if CLASSES[number] == "red" else (blue - red > 90) & (green < 115)


@pytest.mark.parametrize("way", WAYS)
def test_a_box_is_where_its_colour_is(way: str, boxed: BoxSet) -> None:
    """Inside of a box, but for its edge, all pixels have the colour of its class, and beside it none has."""
    seen = 0
    for index in range(len(boxed)):
        for epoch in range(2):
            pixels, target = WAYS[way].read_pair(boxed, index, 7, epoch)
            assert pixels.shape == (*SIZE, 3)
            assert target.shape == boxed.labels.shape[1:]
            rows = target[target[:, 0] >= 0]
            assert (rows[:, 1:5] >= 0).all()
            assert (rows[:, 1:5] <= 1).all()
            for number, left, top, right, bottom, _ in rows:
                x0, y0, x1, y1 = left * SIZE[1], top * SIZE[0], right * SIZE[1], bottom * SIZE[0]
                inner = pixels[int(np.ceil(y0)) + 2 : int(y1) - 2, int(np.ceil(x0)) + 2 : int(x1) - 2]
                if inner.size:
                    assert of_class(inner, int(number)).mean() > 0.97
                    seen += 1
            inside = np.zeros(SIZE, bool)
            for _, a, b, c, d, _ in rows:
                ys = slice(max(int(b * SIZE[0]) - 2, 0), int(d * SIZE[0]) + 3)
                inside[ys, max(int(a * SIZE[1]) - 2, 0) : int(c * SIZE[1]) + 3] = True
            if way in ("as it is", "mirrored", "expanded") and len(rows):  # nothing was cut off
                assert not (of_class(pixels, 0) | of_class(pixels, 1))[~inside].any()
    assert seen > 20


def test_what_a_picture_gets_is_a_function_of_seed_epoch_and_index(boxed: BoxSet) -> None:
    way = BoxPictures(0.3, 2.0, True, 0.5)
    torch.manual_seed(1)
    first = way.read_pair(boxed, 3, 0, 1)
    state = torch.get_rng_state()
    again = way.read_pair(boxed, 3, 0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], way.read_pair(boxed, 3, 0, 2)[0])
    assert not np.array_equal(first[0], way.read_pair(boxed, 3, 1, 1)[0])


def test_colours_move_no_box(boxed: BoxSet) -> None:
    plain, coloured = (BoxPictures(0.3, colour=colour).read_pair(boxed, 2, 0, 0) for colour in (0.0, 0.5))
    assert np.array_equal(plain[1], coloured[1])
    assert not np.array_equal(plain[0], coloured[0])


def test_grey_pictures(boxed: BoxSet) -> None:
    from dataclasses import replace

    grey = replace(boxed, preprocess=Preprocess(SIZE, mode="L", mean=(0.5,), std=(0.2,)))
    pixels, _ = BoxPictures(0.3, 2.0, True, 0.5).read_pair(grey, 2, 0, 0)
    assert pixels.shape == (*SIZE, 1)


def test_the_loader_gives_pictures_with_their_boxes(boxed: BoxSet) -> None:
    way = BoxPictures(0.3, 2.0, True)
    loaders = [Loader(boxed, size, shuffle=True, seed=5, pictures=way, workers=0) for size in (4, 8)]
    images, targets = (torch.cat(parts) for parts in zip(*loaders[0].epoch(2), strict=True))
    others = [torch.cat(parts) for parts in zip(*loaders[1].epoch(2), strict=True)]
    assert torch.equal(images, others[0])
    assert torch.equal(targets, others[1])
    assert targets.shape == (16, *boxed.labels.shape[1:])
    whole = torch.cat([batch for _, batch in Loader(boxed, 5, workers=0).epoch()])
    assert np.array_equal(whole.numpy(), boxed.labels)


def test_what_would_move_pixels_alone_is_refused(boxed: BoxSet) -> None:
    for wrong in ({"flip": True}, {"padding": 4}, {"pictures": Pictures(scale=0.5)}):
        with pytest.raises(BbgError, match="cropped and mirrored by BoxPictures alone"):
            Loader(boxed, 4, shuffle=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BbgError, match="'mixup' mixes classes"):
        Loader(boxed, 4, shuffle=True, mixup=0.1)


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    """Widths, heights and boxes that stay have the same means, within four standard errors."""
    boxes = torch.tensor([[20.0, 30, 120, 140], [200, 100, 260, 150], [150, 20, 300, 220]])
    picture, drawn = Image.new("L", (320, 240)), []
    for crop in (v2.RandomIoUCrop(min_scale=0.3), IoUCrop(0.3)):
        torch.manual_seed(0)
        rows = []
        for _ in range(800):
            given = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(240, 320))
            found = crop({"image": picture, "boxes": given})
            stay = int((found["boxes"][:, 2] > found["boxes"][:, 0]).sum())
            rows.append((*found["image"].size, stay))
            assert stay > 0
        drawn.append(np.array(rows, float))
    one, other = drawn
    error = np.sqrt((one.var(0) + other.var(0)) / len(one))
    assert (np.abs(one.mean(0) - other.mean(0)) < 4 * error).all()
