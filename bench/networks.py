"""The networks that are timed: the packed ones, and their real-valued twins as peers want them.

The twin has the same topology and widths, with plain convolutions and ReLU. Weights are random, for they change no
time; batch norms hold the statistics of a random batch, so that the numbers stay in a trained network's range and int8
has a sensible scale.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import bbg
from bbg.image import Preprocess
from bbg.layers import ByteConv2d, ByteLinear, Shortcut
from bbg.layers.byte import fix_pixels
from bbg.models import NETWORKS as KNOWN
from bench import litert
from bench.runtime_process import BATCH

CALIBRATION = 16  # images for int8


class Network(NamedTuple):
    """One network; `options` are those of the recipe. `size`: of the input, (H, W); None: that of the preset."""

    classes: int
    preset: str
    options: dict[str, Any]
    size: tuple[int, int] | None = None

    @property
    def preprocess(self) -> Preprocess:
        """From an image to the input."""
        preset = Preprocess.of(self.preset)
        return preset if self.size is None else Preprocess(self.size, mean=preset.mean, std=preset.std)


NETWORKS = {
    "resnet20": Network(10, "cifar10", {"act": "rprelu"}),
    "vgg_small": Network(10, "cifar10", {"act": "prelu"}),
    "resnet18": Network(1000, "imagenet", {}),
    "resnet34": Network(1000, "imagenet", {}),
}
AVAILABLE = [name for name in NETWORKS if name in KNOWN]
SMALL = {
    "resnet8": Network(10, "cifar10", {}),
    "resnet18_cifar": Network(10, "cifar10", {"width": 16}),
    "squeezenet_cifar": Network(100, "cifar100", {}),
}
VOC = {"ssd300_vgg16": Network(20, "imagenet", {}, (300, 300))}
IMAGENET = Network(1000, "imagenet", {})  # networks that are not listed are of this kind


def entry_of(name: str) -> Network:
    """What is known of the network called `name`."""
    return {**NETWORKS, **SMALL, **VOC}.get(name, IMAGENET)


def random_bytes(network: Network, images: int = 1, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 `[images, H, W, 3]`."""
    size = network.preprocess.size
    return np.random.default_rng(seed).integers(0, 256, (images, *size, 3), dtype=np.uint8)


def bytes_of(name: str, images: int = 1, seed: int = 0) -> np.ndarray:
    """The same for the network called `name`."""
    return random_bytes(entry_of(name), images, seed)


def normalised(network: Network, pixels: np.ndarray) -> np.ndarray:
    """What torch gets for them: float32 `[images, 3, H, W]`."""
    p = network.preprocess
    x = (pixels / np.float32(255) - np.float32(p.mean)) / np.float32(p.std)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)


class Pooled(Shortcut):
    """A shortcut whose pools have windows of one size."""

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """As `Shortcut`."""
        return super().forward(litert.halved(x, size), size)


class Joined(nn.Module):
    """A detector whose two outputs are one, `[N, 4 P + columns P]`: the offsets, then the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[N, C, H, W]` to all numbers."""
        found = self.network(x)
        return torch.cat((found["boxes"].flatten(1), found["scores"].flatten(1)), 1)


def build(name: str, method: str) -> nn.Module:
    """The network in evaluation mode; the same call gives the same weights."""
    entry = entry_of(name)
    torch.manual_seed(0)
    options = {k: v for k, v in entry.options.items() if k != "act" or method != "float"}
    return settled(bbg.create(name, method, num_classes=entry.classes, **options), entry)


def settled(network: nn.Module, entry: Network) -> nn.Module:
    """`network` in evaluation mode, behind one batch of random images: its batch norms have their statistics, and its
    8-bit layers their ranges.
    """
    images, preset = torch.from_numpy(normalised(entry, random_bytes(entry, 8, seed=1))), entry.preprocess
    fix_pixels(network, images, torch.tensor(preset.mean), torch.tensor(preset.std))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, ByteConv2d | ByteLinear):
            module.recording = True
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def pack(name: str, path: Path, edges: str = "int8") -> None:
    """The binary network as a packed file; `edges` as for bbg.convert."""
    example = torch.from_numpy(normalised(entry_of(name), bytes_of(name, 4, seed=2)))
    bbg.convert(build(name, "bbg"), path, example, edges=edges, preprocess=entry_of(name).preprocess)


def twin(name: str, folder: Path) -> None:
    """The files of `export` for the twin of the network called `name`."""
    entry = NETWORKS[name]
    images = normalised(entry, bytes_of(name, CALIBRATION, seed=3))
    export(build(name, "float"), name, normalised(entry, bytes_of(name)), images, folder)


def export(network: nn.Module, name: str, x: np.ndarray, images: np.ndarray, folder: Path) -> None:
    """NAME.onnx, NAME.int8.onnx and NAME.int7.onnx, calibrated on `images`, and the same for LiteRT.

    NAME.npz holds `x` and torch's output. Shortcuts that ONNX has no pool for get one (`litert.halved`).
    """
    network = pooled(network)
    litert.prepare(network, name, x, images, folder)
    to_onnx(network, name, x, folder)
    for bits in (8, 7):
        quantize(folder / f"{name}.onnx", folder / f"{name}.int{bits}.onnx", images, bits)


def pooled(network: nn.Module) -> nn.Module:
    """A copy whose shortcuts have pools that ONNX knows."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Shortcut):
            module.__class__ = Pooled
    return network


def to_onnx(network: nn.Module, name: str, x: np.ndarray, folder: Path, any_batch: bool = False) -> None:
    """NAME.onnx for as many images as `x` has, or for any number, and NAME.npz with `x` and torch's output."""
    with torch.no_grad():
        y = network(torch.from_numpy(x)).numpy()
    np.savez(folder / f"{name}.npz", x=x, y=y)
    plain = folder / f"{name}.onnx"
    x = x[:1] if any_batch else x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.from_numpy(x),), plain, input_names=["x"], output_names=["y"], dynamo=False)
    if any_batch:  # by the exporter's own dynamic axes the sizes of pools would no longer be constants
        import onnx

        model = onnx.load(plain)
        del model.graph.value_info[:]
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
        onnx.save(model, plain)


def quantize(plain: Path, to: Path, images: np.ndarray, bits: int) -> None:
    """Post-training int8 with QDQ nodes: symmetric weights per channel, uint8 activations per tensor.

    ONNX Runtime and OpenVINO both read it; nncf's own quantisation was no faster in OpenVINO (within 3 %). Weights of 7
    `bits` are for AVX2 without VNNI, whose 16-bit sums of two products saturate with 8.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(np.split(images, len(images)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.left, None)
            return None if x is None else {"x": x}

    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        q.quantize_static(
            folded,
            to,
            Images(),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            reduce_range=bits == 7,
            extra_options={"WeightSymmetric": True},
        )
