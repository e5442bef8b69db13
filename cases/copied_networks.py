"""Six networks in the form in which they are copied from repository to repository, habits of their authors included.

    NETWORKS["U-Net"]    # (what makes it for a number of classes, channels and side of the images it is tried on)

Each is written here, in the style of its public form: that is what a user brings. Names of modules are theirs as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MnistNet(nn.Module):
    """The first network that many write: that of PyTorch's example for MNIST, with its log-softmax at the end."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


class DoubleConv(nn.Module):
    """(convolution, batch norm, ReLU) twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for given in (in_channels, out_channels):
            layers += [nn.Conv2d(given, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
            layers += [nn.ReLU(inplace=True)]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Up(nn.Module):
    """Twice the size, padded to the size of the skip connection, which is put before it."""

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels + in_channels // 2, out_channels)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        dy = x2.size()[2] - x1.size()[2]
        dx = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNet(nn.Module):
    """Down four times, up four times, a skip connection at each size (Ronneberger et al., 1505.04597)."""

    def __init__(self, classes: int = 2, width: int = 16, bilinear: bool = False) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(5)]
        self.inc = DoubleConv(3, width)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), DoubleConv(a, b)) for a, b in itertools.pairwise(widths)
        )
        self.ups = nn.ModuleList(Up(2 * a, a, bilinear) for a in reversed(widths[:-1]))
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.ups:
            x = up(x, skips.pop())
        return self.outc(x)


class ASPPPooling(nn.Sequential):
    """The mean over the map, spread over the map again."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, out_channels, 1, bias=False)]
        super().__init__(*layers, nn.BatchNorm2d(out_channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for layer in self:
            x = layer(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Convolutions of several dilations over one map, joined."""

    def __init__(self, in_channels: int, rates: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(in_channels, out_channels, 1, bias=False)]
        convs += [nn.Conv2d(in_channels, out_channels, 3, padding=r, dilation=r, bias=False) for r in rates]
        modules: list[nn.Module] = [nn.Sequential(c, nn.BatchNorm2d(out_channels), nn.ReLU()) for c in convs]
        self.convs = nn.ModuleList([*modules, ASPPPooling(in_channels, out_channels)])
        joined = out_channels * len(self.convs)
        self.project = nn.Sequential(
            nn.Conv2d(joined, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class DeepLabV3(nn.Module):
    """A backbone that keeps an eighth of the size by dilation, then ASPP, then the size of the image (1706.05587)."""

    def __init__(self, classes: int = 21, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layer1 = SEBasicBlock(w, 2 * w, stride=2)
        self.layer2 = SEBasicBlock(2 * w, 4 * w, dilation=2)
        self.layer3 = SEBasicBlock(4 * w, 8 * w, dilation=4)
        self.aspp = ASPP(8 * w, (2, 4, 6), 4 * w)
        self.classifier = nn.Sequential(DoubleConv(4 * w, 4 * w), nn.Conv2d(4 * w, classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        features = self.layer3(self.layer2(self.layer1(self.stem(x))))
        maps = self.classifier(self.aspp(features))
        return {"out": F.interpolate(maps, size=input_shape, mode="bilinear", align_corners=False)}


class SELayer(nn.Module):
    """Squeeze and excite: each channel times a number between 0 and 1, made of all channels' means (1709.01507)."""

    def __init__(self, channel: int, reduction: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SEBasicBlock(nn.Module):
    """ResNet's basic block with a squeeze-excite layer before the sum."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SELayer(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        if self.downsample is not None:
            residual = self.downsample(x)
        out += residual
        return self.relu(out)


class SEResNet(nn.Module):
    """A ResNet for small images whose blocks have squeeze-excite layers."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = SEBasicBlock(width, width)
        self.layer2 = SEBasicBlock(width, 2 * width, 2)
        self.layer3 = SEBasicBlock(2 * width, 4 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x))))
        x = x.view(x.size(0), -1)
        return self.fc(x)


class GhostModule(nn.Module):
    """Half of the channels by a convolution, the others by a cheap one over the first (1911.11907)."""

    def __init__(self, inp: int, oup: int, kernel_size: int = 1, ratio: int = 2, dw_size: int = 3, relu: bool = True):
        super().__init__()
        self.oup = oup
        init_channels = math.ceil(oup / ratio)
        new_channels = init_channels * (ratio - 1)
        self.primary_conv = nn.Sequential(
            nn.Conv2d(inp, init_channels, kernel_size, 1, kernel_size // 2, bias=False),
            nn.BatchNorm2d(init_channels),
            nn.ReLU(inplace=True) if relu else nn.Sequential(),
        )
        self.cheap_operation = nn.Sequential(
            nn.Conv2d(init_channels, new_channels, dw_size, 1, dw_size // 2, groups=init_channels, bias=False),
            nn.BatchNorm2d(new_channels),
            nn.ReLU(inplace=True) if relu else nn.Sequential(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.oup, :, :]


class SqueezeExcite(nn.Module):
    """Squeeze and excite by 1x1 convolutions and a hard sigmoid that is written out."""

    def __init__(self, in_chs: int, se_ratio: float = 0.25) -> None:
        super().__init__()
        reduced = max(4, int(in_chs * se_ratio) // 4 * 4)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_reduce = nn.Conv2d(in_chs, reduced, 1, bias=True)
        self.act1 = nn.ReLU(inplace=True)
        self.conv_expand = nn.Conv2d(reduced, in_chs, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x_se = self.avg_pool(x)
        x_se = self.act1(self.conv_reduce(x_se))
        x_se = F.relu6(self.conv_expand(x_se) + 3.0) / 6.0
        return x * x_se


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise convolution where the size halves, squeeze-excite, ghost module, sum."""

    def __init__(self, in_chs: int, mid_chs: int, out_chs: int, stride: int = 1, se_ratio: float = 0.0) -> None:
        super().__init__()
        self.stride = stride
        self.ghost1 = GhostModule(in_chs, mid_chs, relu=True)
        if stride > 1:
            self.conv_dw = nn.Conv2d(mid_chs, mid_chs, 3, stride, 1, groups=mid_chs, bias=False)
            self.bn_dw = nn.BatchNorm2d(mid_chs)
        self.se = SqueezeExcite(mid_chs, se_ratio) if se_ratio else None
        self.ghost2 = GhostModule(mid_chs, out_chs, relu=False)
        if in_chs == out_chs and stride == 1:
            self.shortcut = nn.Sequential()
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_chs, in_chs, 3, stride, 1, groups=in_chs, bias=False),
                nn.BatchNorm2d(in_chs),
                nn.Conv2d(in_chs, out_chs, 1, bias=False),
                nn.BatchNorm2d(out_chs),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.ghost1(x)
        if self.stride > 1:
            x = self.bn_dw(self.conv_dw(x))
        if self.se is not None:
            x = self.se(x)
        x = self.ghost2(x)
        x += self.shortcut(residual)
        return x


class GhostNet(nn.Module):
    """A stem, four bottlenecks, a head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        rows = [(16, 16, 16, 1, 0.0), (16, 48, 25, 2, 0.0), (25, 72, 40, 2, 0.25), (40, 120, 40, 1, 0.25)]
        self.blocks = nn.Sequential(*(GhostBottleneck(*row) for row in rows))
        self.global_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.conv_head = nn.Conv2d(40, 128, 1, bias=True)
        self.act2 = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(128, classes)
        self.dropout = 0.2

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.conv_head(self.global_pool(x)))
        x = x.view(x.size(0), -1)
        if self.dropout > 0.0:
            x = F.dropout(x, p=self.dropout, training=self.training)
        return self.classifier(x)


class Conv(nn.Module):
    """Convolution, batch norm, SiLU; the padding follows from the kernel."""

    default_act = nn.SiLU()

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = self.default_act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convolutions, with a sum where the channels allow it."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2, 3)
        self.cv2 = Conv(c2, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Two halves of the channels; bottlenecks go on from the last, and all that they give is joined."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1 = Conv(c1, 2 * self.c)
        self.cv2 = Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Max-pools one after another, all joined."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2)
        self.cv2 = Conv(c1 * 2, c2)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Concat(nn.Module):
    """Joins a list of maps."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)


class YoloBody(nn.Module):
    """A list of layers, each with the numbers of those it takes from, as a YOLO is read from its configuration.

    Three maps come out, at 1/8, 1/16 and 1/32 of the size.
    """

    def __init__(self, classes: int = 4, w: int = 16) -> None:
        super().__init__()
        up = nn.Upsample(None, 2, "nearest")
        rows: list[tuple[Any, nn.Module]] = [
            (-1, Conv(3, w, 3, 2)), (-1, Conv(w, 2 * w, 3, 2)), (-1, C2f(2 * w, 2 * w, 1, True)),
            (-1, Conv(2 * w, 4 * w, 3, 2)), (-1, C2f(4 * w, 4 * w, 2, True)),  # 4: 1/8
            (-1, Conv(4 * w, 8 * w, 3, 2)), (-1, C2f(8 * w, 8 * w, 1, True)),  # 6: 1/16
            (-1, Conv(8 * w, 8 * w, 3, 2)), (-1, SPPF(8 * w, 8 * w)),  # 8: 1/32
            (-1, up), ([-1, 6], Concat()), (-1, C2f(16 * w, 8 * w)),  # 11
            (-1, up), ([-1, 4], Concat()), (-1, C2f(12 * w, 4 * w)),  # 14
            (-1, Conv(4 * w, 4 * w, 3, 2)), ([-1, 11], Concat()), (-1, C2f(12 * w, 8 * w)),  # 17
            (-1, Conv(8 * w, 8 * w, 3, 2)), ([-1, 8], Concat()), (-1, C2f(16 * w, 8 * w)),  # 20
        ]  # fmt: skip
        for i, (source, layer) in enumerate(rows):
            layer.f, layer.i = source, i
        self.model = nn.ModuleList(layer for _, layer in rows)
        self.detect = nn.ModuleList(nn.Conv2d(c, 4 + classes, 1) for c in (4 * w, 8 * w, 8 * w))

    def forward(self, x: Tensor) -> list[Tensor]:
        y: list[Tensor] = []
        for m in self.model:
            source: Any = m.f
            if source != -1:
                x = y[source] if isinstance(source, int) else [x if j == -1 else y[j] for j in source]
            x = m(x)
            y.append(x)
        return [head(y[i]) for head, i in zip(self.detect, (14, 17, 20), strict=True)]


# What makes it, channels and side of its images.
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
    "MNIST": (MnistNet, 1, 28),
    "U-Net": (UNet, 3, 50),  # no multiple of 16: its maps are padded on the way up
    "DeepLabV3": (DeepLabV3, 3, 64),
    "SE-ResNet": (SEResNet, 3, 32),
    "GhostNet": (GhostNet, 3, 64),
    "YOLO": (YoloBody, 3, 64),
}
