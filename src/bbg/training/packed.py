"""A network as the engine runs it, to test a training between its epochs: several times faster than torch on CPUs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from bbg.conversion import convert
from bbg.data.loader import Loader
from bbg.engine import Engine, load
from bbg.errors import BbgError
from bbg.log import LOGGER

CHECKED = 2  # images on which the conversion is checked: its report is not read here


class PackedNetwork(nn.Module):
    """An engine that takes and gives tensors: images `[N, C, H, W]` to what the torch network returns, float32."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...] | list[Tensor] | dict[str, Tensor]:
        """The outputs, on the device of `x`."""
        outputs = self.engine(x.cpu().contiguous().numpy())
        if isinstance(outputs, dict):
            return {name: torch.from_numpy(array).to(x.device) for name, array in outputs.items()}
        if isinstance(outputs, (tuple, list)):
            tensors = [torch.from_numpy(array).to(x.device) for array in outputs]
            return tensors if isinstance(outputs, list) else tuple(tensors)
        return torch.from_numpy(outputs).to(x.device)


def pack(model: nn.Module, loader: Loader) -> nn.Module:
    """`model` at its present weights as a PackedNetwork with float32 edges; `model` itself where it cannot be one.

    `loader`: the images that will be tested; the first ones check the conversion.
    """
    images, _ = next(loader.epoch())
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "network.bbg"
            convert(model, file, images[:CHECKED].cpu(), edges="fp32")
            return PackedNetwork(load(file))
    except BbgError as e:
        LOGGER.warning("the network is tested in torch, which is slower: %s", e)
        return model
