"""What a training asks of conversion: the network in the engine, to test it between epochs, and ranges for 8 bits."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bbg.conversion import convert, record_ranges
from bbg.data.loader import Loader
from bbg.data.sets import Split
from bbg.engine import Engine, load
from bbg.errors import BbgError
from bbg.limits import UNLIMITED
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
    images, _ = next(loader.whole().epoch())
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "network.bbg"
            convert(model, file, images[:CHECKED].cpu(), edges="fp32")
            return PackedNetwork(load(file, limits=UNLIMITED))
    except BbgError as e:
        LOGGER.warning("the network is tested in torch, which is slower: %s", e)
        return model


def recorded_ranges(model: nn.Module, split: Split) -> dict[str, Any]:
    """The ranges of what 8-bit layers would round, on training images, as a checkpoint keeps them.

    Empty for a network that cannot be converted: that is told when somebody converts it.
    """
    try:
        return record_ranges(model, split.train, split.preprocess).to_dict()
    except BbgError as e:
        LOGGER.debug("no ranges are recorded: %s", e)
        return {}
