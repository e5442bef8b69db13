"""Detectors: priors on the maps that the network has, real-valued ends, gradients, conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.detectors_packed import packed_agrees
from torch import nn

import bbg
from bbg.boxes import count, priors
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.heads import Detection
from bbg.layers import BinaryConv2d, ByteConv2d, ByteLinear
from bbg.models.ssd import SSD, L2Norm

torch.set_num_threads(1)

SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "ssd_light": ({"width": 2, "size": (72, 100)}, (72, 100)),
    "ssd300_vgg16": ({"width": 2, "size": (257, 260)}, (257, 260)),
    "ssd300_resnet18": ({"width": 4, "size": 96}, (96, 96)),
    "ssd300_resnet34": ({"width": 4, "size": (64, 130)}, (64, 130)),
}


def small(name: str, method: str = "bbg", **options: Any) -> SSD:
    torch.manual_seed(0)
    model = bbg.create(name, method, num_classes=3, **SMALL[name][0], **options)
    assert isinstance(model, SSD)
    return model


@pytest.mark.parametrize("method", ["bbg", "float", "reactnet"])
@pytest.mark.parametrize("name", SMALL)
def test_priors_are_those_of_the_maps(name: str, method: str) -> None:
    model = small(name, method)
    x = torch.randn(2, 3, *SMALL[name][1])
    maps = []
    for norm in model.norms:
        norm.register_forward_hook(lambda _, __, out: maps.append(tuple(out.shape[2:])))
    found = model(x)
    assert maps == [level.map for level in model.detection.levels]
    number = count(model.detection.levels)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "boxes": (2, number, 4),
        "scores": (2, number, 4),
    }
    (found["boxes"].square().mean() + found["scores"].square().mean()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", SMALL)
def test_a_head_writes_the_row_of_its_cell_and_prior(name: str) -> None:
    """The offsets of one cell follow those of the cell on its left, whatever the number of priors in a cell."""
    model = small(name).eval()
    with torch.no_grad():
        for place, of_boxes in enumerate(model.boxes):
            of_boxes.weight.zero_()  # type: ignore[union-attr, operator]
            of_boxes.bias.copy_(100 * place + torch.arange(len(of_boxes.bias)))  # type: ignore[union-attr, operator, arg-type]
        rows = model(torch.zeros(2, 3, *SMALL[name][1]))["boxes"][0].numpy()
    begin = 0
    for place, level in enumerate(model.detection.levels):
        number = level.map[0] * level.map[1]
        part = rows[begin : begin + number * len(level.sizes)].reshape(number, len(level.sizes), 4)
        wanted = 100 * place + np.arange(4 * len(level.sizes)).reshape(-1, 4)
        assert (part == wanted).all()
        begin += number * len(level.sizes)


@pytest.mark.parametrize("name", SMALL)
def test_stem_and_heads_are_real_and_the_rest_is_binary(name: str) -> None:
    model = small(name)
    heads = {id(m) for m in (*model.boxes, *model.scores)}
    convolutions = [(key, m) for key, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    real = [key for key, m in convolutions if not isinstance(m, BinaryConv2d) and id(m) not in heads]
    assert real[0] == convolutions[0][0]
    assert all(".shortcut." in key for key in real[1:])
    assert not heads & {id(m) for _, m in convolutions if isinstance(m, BinaryConv2d)}
    if name == "ssd300_vgg16":
        assert len(real) == 1
        (dilated,) = (m for _, m in convolutions if m.dilation == (6, 6))
        assert isinstance(dilated, BinaryConv2d)


def test_the_mixed_one_has_8_bits_up_to_stride_8_and_in_the_heads() -> None:
    torch.manual_seed(0)
    model = bbg.create("ssd_mixed", num_classes=3, width=2, size=(72, 100))
    widths = {key: type(m).__name__ for key, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    eight = {key for key, kind in widths.items() if kind == "ByteConv2d"}
    places = (
        *(f"{what}.{i}" for what in ("boxes", "scores") for i in range(4)),
        *(f"stages.0.1.{i}.conv" for i in range(2)),
        *(f"stages.0.2.{i}.conv" for i in range(4)),
    )
    assert eight == {"stages.0.0.0", *places}
    real = {key for key, kind in widths.items() if kind == "Conv2d"}
    assert all(".shortcut." in key for key in real)
    twin = bbg.create("ssd_mixed", "float", num_classes=3, width=2, size=(72, 100))
    assert {type(m).__name__ for m in twin.modules() if isinstance(m, nn.Conv2d)} == {"Conv2d"}


@pytest.mark.parametrize("seed", range(3))
def test_heads_of_one_map_share_its_bytes(seed: int, tmp_path: Path) -> None:
    """Rounded to the same bytes, they read them once; where torch rounds a near-tie the other way, neither is wrong."""
    torch.manual_seed(seed)
    model = bbg.create("ssd_mixed", num_classes=3, size=(144, 192))
    for module in model.modules():
        if isinstance(module, (ByteConv2d, ByteLinear)):
            module.recording = True
    images = torch.randn(8, 3, 144, 192)
    with torch.no_grad():
        for _ in range(2):
            model.train()(images)
    bbg.convert(model.eval(), tmp_path / "n.bbg", images, edges="int8")
    ops = {op.name: op for op in read(tmp_path / "n.bbg").graph.ops}
    assert all(ops[f"boxes.{i}"].inputs == ops[f"scores.{i}"].inputs for i in range(4))


HEADS = [
    ("ssd_light", "separable"),
    ("ssd_light", "binary"),
    ("ssd300_vgg16", "binary"),
    ("ssd300_resnet18", "separable"),
]


@pytest.mark.parametrize(("name", "heads"), HEADS)
def test_cheaper_heads_convert_and_learn(name: str, heads: str, tmp_path: Path) -> None:
    model = small(name, heads=heads)
    size = SMALL[name][1]
    for head in (*model.boxes, *model.scores):
        kinds = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
        assert [isinstance(m, BinaryConv2d) for m in kinds] == [heads == "binary", False]
        assert kinds[0].groups == (kinds[0].in_channels if heads == "separable" else 1)
        assert kinds[1].kernel_size == (1, 1)
    found = model(torch.randn(2, 3, *size))
    (found["boxes"].square().mean() + found["scores"].square().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    packed_agrees(model.eval(), size, tmp_path / "n.bbg")


@pytest.mark.parametrize("heads", ["separable", "binary"])
def test_heads_of_other_methods(heads: str) -> None:
    for method in ("float", "xnor", "reactnet"):
        assert small("ssd_light", method, heads=heads)(torch.zeros(1, 3, 72, 100))["boxes"].shape[2] == 4


@pytest.mark.parametrize("method", ["bbg", "float"])
def test_the_stem_of_patches_makes_the_same_maps(method: str, tmp_path: Path) -> None:
    """A convolution of stride 4 in the place of two times 2: the same priors, and a fourth of the products."""
    usual, patches = (small("ssd_light", method, stem=stem) for stem in ("imagenet", "patch"))
    images = torch.randn(2, 3, 72, 100)
    shapes = [{key: value.shape for key, value in model(images).items()} for model in (usual, patches)]
    assert shapes[0] == shapes[1]
    assert patches.stages[0][0][0].stride == (4, 4)  # type: ignore[index]
    bbg.convert(patches.eval(), tmp_path / "patch.bbg", images, edges="fp32")
    with pytest.raises(BbgError, match="stride 1"):
        small("ssd_light", stem="cifar")


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(BbgError, match=r"heads is 'seperable'; allowed are .*did you mean 'separable'"):
        small("ssd_light", heads="seperable")


def test_the_published_sizes() -> None:
    """SSD300 has 8,732 priors; squares of both kinds lie inside the picture's middle cell and are square in pixels."""
    with torch.device("meta"):
        model = bbg.create("ssd300_vgg16", num_classes=20)
    assert isinstance(model, SSD)
    assert count(model.detection.levels) == 8732
    assert [level.map[0] for level in model.detection.levels] == [38, 19, 10, 5, 3, 1]
    assert [len(level.sizes) for level in model.detection.levels] == [4, 6, 6, 6, 4, 4]
    light = small("ssd_light").detection
    sides = priors(light.levels)[:2, 2:] * (100, 72)
    np.testing.assert_allclose(sides, [[7.2, 7.2], [7.2 * 2**0.5] * 2], rtol=1e-5)


def test_the_norm_of_conv4_3_is_that_of_the_paper() -> None:
    norm, x = L2Norm(5), torch.randn(2, 5, 3, 4)
    wanted = 20 * x / x.square().sum(1, keepdim=True).sqrt()
    assert torch.allclose(norm(x), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["ssd_light", "ssd300_vgg16"])
def test_a_detector_converts_with_its_head(name: str, tmp_path: Path) -> None:
    size = SMALL[name][1]
    packed_agrees(small(name).eval(), size, tmp_path / "n.bbg")
    engine = bbg.load(tmp_path / "n.bbg", threads=1)
    boxes = engine.detect(np.zeros((50, 80, 3), np.uint8), score=0.2)
    assert all(box.label in "abc" and 0 <= box.box[0] < box.box[2] <= 80 for box in boxes)


def test_another_head_may_be_given(tmp_path: Path) -> None:
    model = small("ssd_light")
    example = torch.randn(1, 3, 72, 100)
    bbg.convert(model, tmp_path / "n.bbg", example, head=None)
    assert read(tmp_path / "n.bbg").head is None
    level = model.detection.levels[0]._replace(map=(1, 1), sizes=((0.1, 0.1),) * 13)
    with pytest.raises(BbgError, match="a detection with 13 priors"):
        bbg.convert(model, tmp_path / "n.bbg", example, head=Detection((level,)))


@pytest.mark.parametrize(("name", "size"), [("ssd_light", 63), ("ssd300_vgg16", (300, 256)), ("ssd300_resnet18", 1)])
def test_images_that_are_too_small_are_refused(name: str, size: Any) -> None:
    with pytest.raises(BbgError, match="allowed are sides from"):
        bbg.create(name, num_classes=3, size=size)
