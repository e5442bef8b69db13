"""SSD (Liu et al., arXiv 1512.02325): boxes and scores from several maps of one backbone, each half as large as the
one before.

The backbone and the layers behind it are units of the method; the first convolution and the heads stay real-valued.

- `ssd_light`: residual units at strides 4, 8, 16, 32 and 64, the last four of which are read; for few images.
- `ssd_mixed`: the same with 8 bits up to stride 8, where maps are large and channels few, and in the heads; behind it
  has 1 bit and more channels.
- `ssd300_resnet18`, `ssd300_resnet34`: a ResNet of the ImageNet form, read at strides 8, 16, 32, and three more maps.
- `ssd300_vgg16`: VGG-16 with the dilated conv6 and conv7, read at conv4_3 (L2 norm) and conv7, and four more.

`ssd_on` makes one of any other classifier, ours or a stranger's.

`model.detection` is the head that says where the priors lie: `bbg.convert` stores it.

`heads`, an option of all of them, is what makes O offsets or logits of each pixel of a map of C channels:

- "conv": a real-valued 3x3 convolution, as published: 9 C O products.
- "separable": a 3x3 convolution of each channel, BN and the nonlinearity, then a 1x1 convolution (MobileNetV2,
  arXiv 1801.04381): 9 C + C O products, all of them real-valued.
- "binary": a 3x3 unit of the method with C channels, then a 1x1 convolution: 9 C C products of 1 bit, C O real-valued.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.boxes import Level
from bbg.errors import BbgError, allowed
from bbg.heads import Detection
from bbg.layers import Unit, pointwise, set_bits
from bbg.methods import Method, get
from bbg.models.maps import maps_of, run
from bbg.models.names import Names, moved, of_resnet, resnet_in_stages
from bbg.models.resnet import LIGHT, MIXED, PooledForm, ResNet, Stage, light_stages, stages_of, stem_of
from bbg.models.vgg import vgg16_elsewhere, vgg16_stages

NORM = 20.0  # what the L2 norm of conv4_3 is scaled to at first
HEADS = ("conv", "separable", "binary")  # what `heads` may be
Sides = tuple[int, int]


class L2Norm(nn.Module):
    """`x / |x| * weight`, over the channels of a pixel; `weight`: one number per channel, NORM at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), NORM))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as `x` `[N, C, H, W]`."""
        return F.normalize(x, dim=1) * self.weight.reshape(-1, 1, 1)


def head_of(heads: str, channels: int, outputs: int, method: Method, act: str | None = None) -> nn.Module:
    """A module from a map of `channels` to one of `outputs` channels, same size; `heads` is one of HEADS."""
    if heads not in HEADS:
        raise BbgError(f"heads is {heads!r}; {allowed(heads, HEADS)}")
    if heads == "conv":
        last, before = nn.Conv2d(channels, outputs, 3, padding=1), list[nn.Module]()
    else:
        last = nn.Conv2d(channels, outputs, 1)
        if heads == "binary":
            before = [Unit.build(channels, channels, 3, padding=1, method=method, act=act)]
        else:
            before = [
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                pointwise(method.act if act is None else act, channels),
            ]
    nn.init.xavier_uniform_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(*before, last) if before else last


class SSD(nn.Module):
    """Images `[N, C, *size]` to `{"boxes": [N, P, 4], "scores": [N, P, 1 + num_classes]}`: offsets and logits.

    `stages`: one after the other, of which each makes a map that is read; `channels`: of these maps; `norms`: what each
    goes through before its heads. `detection`: the head, with the priors of each map. `head`: what makes, of channels
    and outputs, the module that reads a map. `shared`: how many of the stages a classifier has too. `backbone`: a
    module that makes the first maps, a tuple, from the last of which the stages go on; None: they take the images.

    `elsewhere`: tables of how others name its modules (`bbg.models.names`).
    """

    elsewhere: Sequence[Names] = ()

    def __init__(
        self,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        norms: Sequence[nn.Module],
        detection: Detection,
        num_classes: int,
        head: Callable[[int, int], nn.Module],
        *,
        shared: int = 0,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.detection, self.backbone = detection, backbone
        self.stages, self.norms = nn.ModuleList(stages), nn.ModuleList(norms)
        counts = [len(level.sizes) for level in detection.levels]
        pairs = list(zip(channels, counts, strict=True))
        self.boxes = nn.ModuleList(head(have, 4 * count) for have, count in pairs)
        self.scores = nn.ModuleList(head(have, (1 + num_classes) * count) for have, count in pairs)
        self.columns = 1 + num_classes
        self.added = (*(f"stages.{i}." for i in range(shared, len(stages))), "norms.", "boxes.", "scores.")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Offsets and logits of all priors."""
        maps = [] if self.backbone is None else list(self.backbone(x))
        x = maps[-1] if maps else x
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        boxes, scores = [], []
        for given, norm, of_boxes, of_scores in zip(maps, self.norms, self.boxes, self.scores, strict=True):
            seen = norm(given)
            boxes.append(of_boxes(seen).permute(0, 2, 3, 1).flatten(1))
            scores.append(of_scores(seen).permute(0, 2, 3, 1).flatten(1))
        return {
            "boxes": torch.cat(boxes, 1).unflatten(1, (-1, 4)),
            "scores": torch.cat(scores, 1).unflatten(1, (-1, self.columns)),
        }


def levels(
    maps: Sequence[Sides], size: Sides, scales: Sequence[float], ratios: Sequence[tuple[float, ...]]
) -> Detection:
    """The priors of `maps`: of each two squares and, for each of its `ratios` r, two boxes of r and 1/r.

    `scales`: the side of the first square over the short side of the input, one for each map and one more; the second
    square is the geometric mean with the next one.
    """
    short = min(size)
    found = []
    for place, (sides, own) in enumerate(zip(maps, ratios, strict=True)):
        scale, next_scale = scales[place], scales[place + 1]
        pairs = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
        for ratio in own:
            root = math.sqrt(ratio)
            pairs += [(scale * root, scale / root), (scale / root, scale * root)]
        found.append(Level(sides, tuple((w * short / size[1], h * short / size[0]) for w, h in pairs)))
    return Detection(tuple(found))


def _sides(name: str, size: int | tuple[int, int], least: int) -> Sides:
    high, wide = (size, size) if isinstance(size, int) else size
    if min(high, wide) < least:
        raise BbgError(f"{name}: size is {size}, allowed are sides from {least}")
    return high, wide


def _halved(sides: Sides, times: int = 1) -> Sides:
    for _ in range(times):
        sides = (-(-sides[0] // 2), -(-sides[1] // 2))
    return sides


def _light(
    form: Sequence[tuple[int, int, int]],
    num_classes: int,
    method: str | Method = "bbg",
    *,
    width: int = 32,
    in_channels: int = 3,
    size: int | tuple[int, int] = (240, 320),
    act: str | None = "rprelu",
    heads: str = "conv",
    stem: str = "imagenet",
) -> SSD:
    """A light variant, of the stages of `form`: LIGHT or MIXED. Where some have 8 bits, the stem and the heads do too.

    `stem`: one of `bbg.models.resnet.STEMS`, of stride 4.
    """
    chosen, sides = get(method), _sides("ssd_light", size, 64)
    if stem == "cifar":
        raise BbgError("stem is 'cifar', of stride 1; a light detector takes 'imagenet' or 'patch'")
    stages = light_stages(chosen, width, in_channels, act, stem, form)
    channels = [factor * width for factor, _, _ in form[1:]]
    maps = [_halved(sides, times) for times in (3, 4, 5, 6)]
    detection = levels(maps, sides, (0.1, 0.2, 0.4, 0.7, 1.0), ((2.0,),) * 4)
    norms = [nn.BatchNorm2d(have) for have in channels]
    head = partial(head_of, heads, method=chosen, act=act)
    network = SSD(stages, channels, norms, detection, num_classes, head, shared=4)
    if chosen.weight and any(bits == 8 for _, _, bits in form):
        set_bits(network, {"first": 8, "boxes.*": 8, "scores.*": 8})
    return network


def _ssd300(maps: Sequence[Sides], size: Sides) -> Detection:
    """The priors of SSD300: four on the first and the last two maps, six on the others."""
    ratios = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    return levels(maps, size, (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075), ratios)


def ssd300_resnet(
    num_classes: int,
    method: str | Method = "bbg",
    *,
    blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
    width: int = 64,
    in_channels: int = 3,
    size: int | tuple[int, int] = 300,
    act: str | None = None,
    heads: str = "conv",
) -> SSD:
    """A ResNet of the ImageNet form, read at strides 8, 16 and 32, and units that halve the map three times more."""
    chosen, sides = get(method), _sides("ssd300_resnet", size, 64)
    widths = (width, 2 * width, 4 * width, 8 * width, 4 * width, 4 * width, 4 * width)
    parts = [Stage(channels, count) for channels, count in zip(widths, (*blocks, 1, 1, 1), strict=True)]
    units = stages_of(parts, chosen, act)
    stem = stem_of("imagenet", in_channels, width, chosen.act if act is None else act)
    maps = [_halved(sides, times) for times in range(3, 9)]
    norms = [nn.BatchNorm2d(channels) for channels in widths[1:]]
    stages = [nn.Sequential(stem, *units[:2]), *units[2:]]
    head = partial(head_of, heads, method=chosen, act=act)
    model = SSD(stages, widths[1:], norms, _ssd300(maps, sides), num_classes, head, shared=3)
    places = resnet_in_stages(blocks, chosen.shortcut == "none")
    model.elsewhere = [places, moved(of_resnet(blocks, chosen.shortcut == "none"), places)]
    return model


def ssd300_vgg16(
    num_classes: int,
    method: str | Method = "bbg",
    *,
    width: int = 64,
    in_channels: int = 3,
    size: int | tuple[int, int] = 300,
    act: str | None = None,
    heads: str = "conv",
) -> SSD:
    """VGG-16: `width` channels in its first layers, 16 times as many in conv6 and conv7, as published at 64."""
    chosen, sides = get(method), _sides("ssd300_vgg16", size, 257)  # of fewer the last map has no pixel
    stages = vgg16_stages(chosen, width, in_channels, act)
    have = 16 * width

    def unit(channels: int, kernel: int, **options: Any) -> Unit:
        nonlocal have
        made = Unit.build(have, channels, kernel, method=chosen, act=act, **options)
        have = channels
        return made

    channels_of, maps = [8 * width, have], [_halved(sides, 3), _halved(sides, 4)]
    for narrow, wide, strided in ((4, 8, True), (2, 4, True), (2, 4, False), (2, 4, False)):
        options: dict[str, Any] = {"stride": 2, "padding": 1} if strided else {}
        stages.append(nn.Sequential(unit(narrow * width, 1), unit(wide * width, 3, **options)))
        channels_of.append(have)
        maps.append(_halved(maps[-1]) if strided else (maps[-1][0] - 2, maps[-1][1] - 2))
    norms: list[nn.Module] = [L2Norm(8 * width), *(nn.BatchNorm2d(channels) for channels in channels_of[1:])]
    head = partial(head_of, heads, method=chosen, act=act)
    model = SSD(stages, channels_of, norms, _ssd300(maps, sides), num_classes, head, shared=2)
    model.elsewhere = vgg16_elsewhere()
    return model


def ssd_on(
    backbone: nn.Module,
    layers: Sequence[str],
    num_classes: int,
    size: int | tuple[int, int],
    *,
    extra: int = 2,
    channels: int = 256,
    method: str | Method = "bbg",
    act: str | None = None,
    heads: str = "conv",
    in_channels: int = 3,
    scales: Sequence[float] | None = None,
    ratios: Sequence[float] = (2.0,),
) -> SSD:
    """An SSD that sees with a classifier: it reads the maps that the modules of `backbone` called `layers` give.

        ssd_on(bbg.create("resnet18", num_classes=10), ("units.7", "units.11", "units.15"), 3, 300)
        ssd_on(torchvision.models.resnet18(), ("layer2", "layer3", "layer4"), 3, 300, method="float")

    What comes behind the last of them, as the classifier's own head, is not run and not stored; the rest is the very
    modules of `backbone`, under their names below `backbone.`, with their weights; where the forward around them
    asks for the mode, it stays that of evaluation. A map goes through BN before its heads. From the last one on,
    `extra` stages of two units of `method`, of `channels` channels, halve the map. `act`: their nonlinearity, None for
    the method's; `heads`: "conv", "separable" or "binary" (`bbg.models.ssd`).

    It takes images `[N, in_channels, *size]`. The priors are those of the maps that these give. `scales`: the sides of
    the squares over the short side of the image, one for each map and one more; None: from 0.1 to 1, each larger than
    the one before by the same factor. `ratios`: of the other boxes of each map (`levels`).

    The backbone stays as wide as it is: give one that is binary, or make the whole binary with `bbg.binarize`.

    Raises BbgError for names that are none, are not called once, or give no map; for a size that the backbone does not
    run at, or that is too small for so many further maps; and for options out of range.
    """
    chosen, sides = get(method), _sides("ssd_on", size, 1)
    for name, value, least in (("num_classes", num_classes, 1), ("extra", extra, 0), ("channels", channels, 1)):
        if not isinstance(value, Integral) or value < least:
            raise BbgError(f"ssd_on: {name} is {value!r}, allowed are integers from {least}")
    example = torch.zeros(1, in_channels, *sides)
    eyes = maps_of(backbone, layers, example)
    given = run(eyes, example)
    maps, widths = [(one.shape[2], one.shape[3]) for one in given], [one.shape[1] for one in given]
    for _ in range(extra):
        if maps[-1] == (1, 1):
            raise BbgError(
                f"ssd_on: behind {layers[-1]!r} a map is 1x1 after {len(maps) - len(given)} further maps of {extra}; "
                "give a larger size, or fewer as extra"
            )
        maps.append(_halved(maps[-1]))
    steps = len(maps)
    scales = [0.1 ** (1 - i / steps) for i in range(steps + 1)] if scales is None else scales
    if len(scales) != steps + 1 or not all(0 < scale <= 10 for scale in scales) or not all(r > 0 for r in ratios):
        raise BbgError(
            f"ssd_on: scales are {list(scales)} and ratios {list(ratios)}; allowed are {steps + 1} scales, one for "
            "each map and one more, from above 0 to 10, and ratios above 0"
        )
    detection = levels(maps, sides, scales, [tuple(ratios)] * steps)
    stages = stages_of([Stage(widths[-1], 0), *[Stage(channels, 1)] * extra], chosen, act)[1:]
    widths += [channels] * extra
    norms = [nn.BatchNorm2d(have) for have in widths]
    head = partial(head_of, heads, method=chosen, act=act)
    model = SSD(stages, widths, norms, detection, int(num_classes), head, backbone=eyes)
    tables: Sequence[Names] = backbone.elsewhere if isinstance(backbone, (ResNet, PooledForm)) else ()
    model.elsewhere = [{theirs: f"backbone.{ours}" for theirs, ours in table.items()} for table in tables]
    return model.to(given[0].device).train()


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "ssd_light": partial(_light, LIGHT),
    "ssd_mixed": partial(_light, MIXED, width=16),
    "ssd300_vgg16": ssd300_vgg16,
    "ssd300_resnet18": ssd300_resnet,
    "ssd300_resnet34": partial(ssd300_resnet, blocks=(3, 4, 6, 3)),
}
