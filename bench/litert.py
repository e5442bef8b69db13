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


def prepare(network: Any, name: str, x: np.ndarray, images: np.ndarray, folder: Path) -> None:
    """NAME.pt2 for `flat`, and the calibration images."""
    import copy

    import torch

    from bbg.layers import Shortcut

    class Joined(Shortcut):
        """Wider by a concatenation: LiteRT's converter (0.10) loses the order of the axes at a repetition."""

        def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            x = x if x.shape[2:] == size else torch.nn.functional.adaptive_avg_pool2d(x, size)
            return torch.cat([x] * (self.channels // x.shape[1]), 1) if self.channels > x.shape[1] else x

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
