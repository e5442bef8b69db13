"""LiteRT with XNNPACK, in an environment of its own: its converter reads what `torch.export` saved.

Static int8 is that of its quantizer: weights per filter, activations per tensor, ranges from calibration images. Float
layers keep float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.environments import environment

PACKAGES = ("litert-torch==0.10.0",)
IMAGES = "calibration.npy"


def python() -> str:
    """The Python that has it; RuntimeError where it cannot be installed."""
    return str(environment("litert", PACKAGES))


def halved(x: Any, size: tuple[int, int]) -> Any:
    """`x` `[N, C, H, W]` pooled to `size` by windows of one size, where those of an adaptive pool would differ.

    ONNX knows no adaptive pool of such sizes (19 to 10). The numbers are others than the shortcut's, the shapes and the
    work are the same.
    """
    import torch.nn.functional as F

    sides = tuple(x.shape[2:])
    if all(have % want == 0 for have, want in zip(sides, size, strict=True)):
        return x
    if size == tuple(-(-have // 2) for have in sides):
        return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    if size == tuple(have - 2 for have in sides):
        return F.avg_pool2d(x, 3, 1)
    raise RuntimeError(f"a shortcut from {sides} to {size} has no pool of one window")


def prepare(network: Any, name: str, x: np.ndarray, images: np.ndarray, folder: Path) -> None:
    """NAME.pt2 for `flat`, and the calibration images."""
    import copy

    import torch

    from bbg.layers import Shortcut

    class Joined(Shortcut):
        """Wider by a concatenation, narrower by sums: else LiteRT's converter (0.10) loses the order of the axes."""

        def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            x = halved(x, size)
            x = x if x.shape[2:] == size else torch.nn.functional.adaptive_avg_pool2d(x, size)
            have, want = x.shape[1], self.channels
            if have % want and want % have:
                return super().forward(x, size)
            if have <= want:
                return torch.cat([x] * (want // have), 1) if have < want else x
            first, *others = x.split(want, 1)
            for other in others:
                first = first + other
            return first * (want / have)

    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Shortcut):
            module.__class__ = Joined
    with torch.no_grad():
        torch.export.save(torch.export.export(network, (torch.from_numpy(x),)), folder / f"{name}.pt2")
    np.save(folder / f"{name}.{IMAGES}", images)


def flat(name: str, folder: Path, precision: str) -> bytes:
    """The model of LiteRT, made in its environment: "float32" or "int8"."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    images = np.load(folder / f"{name}.{IMAGES}")
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # so that no transposition is left in the network
    network = litert_torch.to_channel_last_io(torch.export.load(folder / f"{name}.pt2").module(), args=[0])
    plain = folder / f"{name}.{precision}.tflite"
    litert_torch.convert(network, (torch.from_numpy(images[:1]),), strict_export=False).export(str(plain))
    if precision == "float32":
        return plain.read_bytes()
    rounding = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    ranges = rounding.calibrate({"serving_default": [{"args_0": image} for image in np.split(images, len(images))]})
    return bytes(rounding.quantize(ranges).quantized_model)


def interpreter(model: bytes, threads: int) -> Any:
    """Ready to run, XNNPACK's kernels chosen as by default."""
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_content=model, num_threads=threads)
    found.allocate_tensors()
    return found
