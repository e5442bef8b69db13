"""Understanding a binary network: what its bits, gates, filters and activations do, and what it costs.

    for row in bbg.analysis.weight_entropy(model):
        print(row.name, row.layer, row.least)

Every function takes any torch module and looks at the binary layers (bbg.layers) inside it, by the names that
`model.named_modules()` gives them; a network without any gives empty answers. What is a sign, a threshold or a scale
is asked of the layer's own binarizers. No function changes the model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Unit

ROUNDING = 1e-5  # a filter varies where its output does, by more than this share of the layer's largest output
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


# Weights and gates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entropy:
    """Entropy of the weight signs of one layer, `H(p) = -p log2 p - (1-p) log2 (1-p)` bits, `p` the share of +1.

    `layer`: H over all its weights; `filters`: `[O]` float64, H of each filter. 0 where all signs are alike, 1 where
    half of them are +1. `least` and `mean` are those of the filters.
    """

    name: str
    weights: int
    positive: float
    layer: float
    filters: Tensor

    @property
    def least(self) -> float:
        return float(self.filters.min())

    @property
    def mean(self) -> float:
        return float(self.filters.mean())


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d | BinaryLinear]:
    """The binary layers of `model` by name, in the order of `named_modules`."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryConv2d | BinaryLinear)}


@torch.no_grad()
def signs(model: nn.Module) -> dict[str, Tensor]:
    """Of every binary layer, where its weight is +1: bool, of the weight's shape, on the CPU.

    That is `sign(w - threshold) > 0`, the threshold being that of the layer's weight binarizer.
    """
    return {name: _signs(layer.weight_binarizer, layer.weight).cpu() for name, layer in binary_layers(model).items()}


def _signs(binarizer: Any, x: Tensor) -> Tensor:
    return binarizer.signs(x, binarizer.form(x)) > 0


def flips(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """Per layer, the share of signs that differ between two answers of `signs`: 0 to 1.

    Raises BbgError where the two do not have the same layers with the same shapes.
    """
    for name in {**before, **after}:
        shapes = [list(side[name].shape) if name in side else "missing" for side in (before, after)]
        if shapes[0] != shapes[1]:
            raise BbgError(f"flips: layer {name!r} is {shapes[0]} before and {shapes[1]} after; compare one network")
    return {name: float((before[name] != sign).double().mean()) for name, sign in after.items()}


def weight_entropy(model: nn.Module) -> list[Entropy]:
    """The entropy of the weight signs of every binary layer, as a whole and per filter."""
    rows = []
    for name, sign in signs(model).items():
        share = sign.flatten(1).double().mean(1)
        rows.append(Entropy(name, sign.numel(), float(share.mean()), float(_entropy(share.mean())), _entropy(share)))
    return rows


def _entropy(p: Tensor) -> Tensor:
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2)


@dataclass(frozen=True)
class Gates:
    """The learned gates of one unit, `values` `[O]` on the CPU, and their statistics.

    `std` divides by O; `negative` is the share below 0: channels whose shortcut is turned round.
    """

    name: str
    values: Tensor
    mean: float
    std: float
    least: float
    largest: float
    negative: float


def gates(model: nn.Module) -> list[Gates]:
    """The gates of every unit (bbg.layers.Unit) that has learned ones."""
    rows = []
    for name, unit in model.named_modules():
        if isinstance(unit, Unit) and unit.gate is not None:
            g = unit.gate.detach().cpu().clone()
            facts = (g.mean(), g.std(correction=0), g.min(), g.max(), (g < 0).double().mean())
            rows.append(Gates(name, g, *map(float, facts)))
    return rows


# Dead filters and stuck activations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activity:
    """What one binary layer did on some images.

    `dead`: `[O]` bool. A filter is dead where its output, before BN, is the same for all images and places, or where
    the scale of the BN behind it is nearly 0. `positive`: `[C]` float64, per input channel the share of activations
    that became +1.
    """

    name: str
    dead: Tensor
    positive: Tensor

    @property
    def stuck(self) -> Tensor:
        """`[C]` bool: input channels that were +1, or -1, for all images and places, so that they tell nothing."""
        return (self.positive == 0) | (self.positive == 1)


class _Record:
    """What the hooks note of one layer: range of its outputs, signs of its inputs, scale of its BN."""

    def __init__(self) -> None:
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []
        self.ones: list[Tensor] = []
        self.places = 0
        self.scale: Tensor | None = None

    def activity(self, name: str, tiny: float) -> Activity:
        low, high = torch.stack(self.low).amin(0), torch.stack(self.high).amax(0)
        dead = high - low <= ROUNDING * torch.maximum(low.abs(), high.abs()).max()
        if self.scale is not None:
            dead = dead | (self.scale.abs() <= tiny)
        return Activity(name, dead.cpu(), (torch.stack(self.ones).sum(0).double() / self.places).cpu())


def activity(model: nn.Module, images: Tensor, *, batch: int = 250, tiny: float = 1e-3) -> list[Activity]:
    """Dead filters and stuck activations of every binary layer that `images` `[N, ...]` reach, in eval mode.

    The images are what `model` takes, and go through it `batch` at a time. The scale of a BN is "nearly 0" up to
    `tiny`; a BN counts as that of a layer where it is a module that takes the layer's output, or a pool of it.
    On a single image a linear layer cannot vary. Raises BbgError for no images.
    """
    records: dict[str, _Record] = {}
    waiting: dict[int, tuple[Tensor, str]] = {}  # outputs that no BN has taken yet, by identity, kept alive

    def enter(name: str, layer: Any, x: Tensor) -> None:
        bits = _signs(layer.activation_binarizer, x).transpose(0, 1).flatten(1)
        record = records.setdefault(name, _Record())
        record.ones.append(bits.sum(1))
        record.places += bits.shape[1]

    def leave(name: str, y: Tensor) -> None:
        channels = y.transpose(0, 1).flatten(1)
        records[name].low.append(channels.amin(1))
        records[name].high.append(channels.amax(1))
        waiting[id(y)] = (y, name)

    def pooled(x: Tensor, y: Tensor) -> None:
        if id(x) in waiting:
            waiting[id(y)] = (y, waiting[id(x)][1])

    def normed(norm: Any, x: Tensor) -> None:
        if id(x) in waiting and norm.weight is not None:
            records[waiting.pop(id(x))[1]].scale = norm.weight

    with _observed(model) as handles:
        for name, m in model.named_modules():
            if isinstance(m, BinaryConv2d | BinaryLinear):
                handles.append(m.register_forward_pre_hook(lambda m, x, name=name: enter(name, m, x[0])))
                handles.append(m.register_forward_hook(lambda m, x, y, name=name: leave(name, y)))
            elif isinstance(m, nn.modules.batchnorm._BatchNorm):
                handles.append(m.register_forward_pre_hook(lambda m, x: normed(m, x[0])))
            elif isinstance(m, POOLS):
                handles.append(m.register_forward_hook(lambda m, x, y: pooled(x[0], y)))
        for part in _on_device(model, images).split(batch):
            model(part)
            waiting.clear()
        return [record.activity(name, tiny) for name, record in records.items()]


@contextmanager
def _observed(model: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Evaluation mode without gradients; behind it, removes the hooks in the list and restores every training flag."""
    flags = [(m, m.training) for m in model.modules()]
    handles: list[RemovableHandle] = []
    try:
        model.eval()
        with torch.no_grad():
            yield handles
    finally:
        for handle in handles:
            handle.remove()
        for m, training in flags:
            m.training = training


def _on_device(model: nn.Module, images: Tensor) -> Tensor:
    if images.ndim == 0 or len(images) == 0:
        raise BbgError(f"got images of shape {list(images.shape)}, at least one is needed; give a batch [N, ...]")
    return images.to(next((p.device for p in model.parameters()), images.device))


# Memory and multiply-accumulates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one module costs, those inside it left out (but a layer's binarizers are part of it).

    `weights` numbers of `bits` bits, 1 or 32, and `vectors` numbers of 32 bits beside them: bias, BN, gates, and the
    scales, shifts and thresholds of the binarizers. `macs`: multiply-accumulates for one image, taps in the padding
    included. `shape`: the output for one image, () where there is no product.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    weights: int
    vectors: int
    macs: int

    @property
    def packed(self) -> int:
        """Bytes of the weights, `bits` bits each (a packed file pads some rows to whole words)."""
        return -(-self.weights * self.bits // 8)

    @property
    def bytes(self) -> int:
        return self.packed + 4 * self.vectors


@dataclass(frozen=True)
class Summary:
    """The costs of a network: its rows, and their totals."""

    rows: tuple[Cost, ...]

    @property
    def bytes(self) -> dict[int, int]:
        """Bytes held in numbers of 1 and of 32 bits."""
        binary = sum(row.packed for row in self.rows if row.bits == 1)
        return {1: binary, 32: sum(row.bytes for row in self.rows) - binary}

    @property
    def float_bytes(self) -> int:
        """Bytes if every number took 32 bits."""
        return sum(4 * (row.weights + row.vectors) for row in self.rows)

    @property
    def macs(self) -> dict[int, int]:
        """Multiply-accumulates for one image, by the bit width of the weight."""
        return {bits: sum(row.macs for row in self.rows if row.bits == bits) for bits in (1, 32)}


def costs(model: nn.Module, example: Tensor) -> Summary:
    """Memory and multiply-accumulates of `model` on images such as `example` `[N, ...]`, by bit width.

    Products are counted in convolutions (not transposed ones), linear layers and their binary twins: for each number
    of the output, one multiply-accumulate per weight of its filter. A layer that runs twice counts twice, its memory
    once. Raises BbgError for no images.
    """
    outputs: dict[nn.Module, list[torch.Size]] = {}
    forms: dict[nn.Module, int] = {}

    def leave(layer: Any, x: Tensor, y: Tensor) -> None:
        outputs.setdefault(layer, []).append(y.shape)
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            form = layer.activation_binarizer.form(x)
            forms[layer] = _numel(form.threshold, form.scale, form.shift)

    products = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    rows, counted, inside = [], set[int](), set[nn.Module]()
    with _observed(model) as handles:
        for m in model.modules():
            if isinstance(m, products):
                handles.append(m.register_forward_hook(lambda m, x, y: leave(m, x[0], y)))
        model(_on_device(model, example))
        for name, m in model.named_modules():
            if m in inside:
                continue
            held = {id(t): t for t in [*m.parameters(recurse=False), *m.buffers(recurse=False)]
                    if t.is_floating_point() and id(t) not in counted}  # fmt: skip
            counted |= set(held)
            numbers = _numel(*held.values())
            if not isinstance(m, products):
                if numbers:
                    rows.append(Cost(name, type(m).__name__, (), 32, 0, numbers, 0))
                continue
            shapes = outputs.get(m, [])
            macs = sum(shape.numel() for shape in shapes) // len(example) * m.weight.shape[1:].numel()
            shape = tuple(shapes[0][1:]) if shapes else ()
            weights = _numel(held.get(id(m.weight)))
            vectors, bits = numbers - weights, 32
            if isinstance(m, BinaryConv2d | BinaryLinear):
                inside |= set(m.modules())
                form = m.weight_binarizer.form(m.weight)
                vectors += _numel(form.scale, form.shift) + forms.get(m, 0)
                bits = 1
            rows.append(Cost(name, type(m).__name__, shape, bits, weights, vectors, macs))
    return Summary(tuple(rows))


def _numel(*tensors: Tensor | None) -> int:
    return sum(t.numel() for t in tensors if t is not None)


# Pictures -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def histograms(model: nn.Module, path: Path, *, title: str = "") -> Path:
    """Draw the binary layers of `model` as PNG; returns the file written: `path`, or `histograms.png` in a folder.

    Three panels, a line per layer: the entropy of its filters (mean, and from least to largest); a histogram of its
    unit's gates; one of its latent weights `w - threshold`, in multiples of their mean magnitude. A histogram is a
    line of cells, the darker the fuller. Raises BbgError where there is no binary layer or the file cannot be written.
    """
    entropies = weight_entropy(model)
    if not entropies:
        raise BbgError("the network has no binary layer, and only those are drawn; give a network of another method")
    from matplotlib.figure import Figure

    learned = gates(model)
    figure = Figure(figsize=(13, max(3.0, 0.22 * len(entropies) + 1.5)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(title)
    lines = range(len(entropies))
    left.hlines(lines, [e.least for e in entropies], [float(e.filters.max()) for e in entropies], color="tab:gray")
    left.plot([e.mean for e in entropies], lines, "o", color="tab:blue", markersize=4)
    left.set(xlim=(-0.02, 1.02), xlabel="entropy of a filter's signs (bits)")
    _label(left, [e.name for e in entropies])
    reach = max((float(g.values.abs().max()) for g in learned), default=1.0) * 1.05
    _lines(middle, {g.name: g.values for g in learned}, (-reach, reach))
    middle.set(xlabel="gate" if learned else "gate (no unit has a learned one)")
    latent = {}
    for name, layer in binary_layers(model).items():
        binarizer = layer.weight_binarizer
        threshold = binarizer.form(layer.weight).threshold
        w = layer.weight if threshold is None else layer.weight - binarizer.along(threshold, layer.weight)
        latent[name] = (w / w.abs().mean().clamp(min=1e-30)).cpu()
    _lines(right, latent, (-4.0, 4.0))
    right.set(xlabel="latent weight / mean magnitude")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    path = path / "histograms.png" if path.is_dir() else path
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as e:
        raise BbgError(f"cannot write {str(path)!r}: {e.strerror}; give a file in a writable folder") from e
    return path


def _lines(axis: Any, rows: dict[str, Tensor], span: tuple[float, float], bins: int = 60) -> None:
    """A histogram of each row over `span`, values beyond it in the outermost cells, each scaled to its fullest cell."""
    counts = [torch.histc(row.float().clamp(*span), bins, *span) for row in rows.values()]
    if counts:
        shares = torch.stack([c / c.max() for c in counts])
        axis.imshow(shares.numpy(), cmap="Blues", aspect="auto", interpolation="nearest",
                    extent=(*span, len(rows) - 0.5, -0.5))  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.6)
    _label(axis, list(rows))


def _label(axis: Any, names: list[str]) -> None:
    axis.locator_params("x", nbins=6)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
