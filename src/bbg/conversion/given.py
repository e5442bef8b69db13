"""What conversion is given: images, and a network of which it takes a copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bbg.errors import BbgError, first_line
from bbg.tracing.unseen import refuse_unseen


def images_of(example: Tensor) -> Tensor:
    """The example as a float32 batch on the CPU; BbgError for what is none."""
    came = f"{example.dtype} {list(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point() or not example.numel():
        raise BbgError(f"the example is {came}; give a batch of normalised images, a float tensor [N, C, H, W]")
    images = example.detach().to("cpu", torch.float32).contiguous()
    if not images.isfinite().all():
        raise BbgError("the example holds numbers that are not finite; give normalised images")
    return images


def float32_copy(model: nn.Module) -> nn.Module:
    """A copy of the network as it is converted."""
    refuse_unseen(model)
    attributes = [value for module in model.modules() for value in vars(module).values()]
    results = {id(v): v.detach().clone() for v in attributes if isinstance(v, Tensor) and not v.is_leaf}
    try:
        network = copy.deepcopy(model, dict(results)).to("cpu", torch.float32).eval().requires_grad_(False)
    except Exception as error:  # whatever a stranger's module raises
        came = first_line(error)
        raise BbgError(f"the network cannot be copied ({came}); give one that was built and run once") from error
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():  # a layer may keep other things there
            raise BbgError(f"{name} holds numbers that are not finite; a network is converted after it was trained")
    return network
