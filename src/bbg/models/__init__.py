"""The networks, by name: one file per family and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from numbers import Integral
from typing import Any

from torch import nn

from bbg.errors import BbgError, allowed
from bbg.layers import Bits, set_bits
from bbg.methods import Method, get
from bbg.models.ssd import ssd_on

__all__ = ["NETWORKS", "allowed_options", "create", "list_models", "ssd_on"]

MODULES = (
    "resnet",
    "vgg",
    "bbgnet",
    "ssd",
)
# Each of these modules has a NETWORKS of its own: what to call for a network, with its class count and method.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    name: build for module in MODULES for name, build in import_module(f"{__name__}.{module}").NETWORKS.items()
}


def create(
    name: str, method: str | Method = "bbg", *, num_classes: int, bits: Bits | None = None, **options: Any
) -> nn.Module:
    """The network called `name`, its inner convolutions made binary by `method`, ready to train.

    It takes images, float32 `[N, in_channels, H, W]`, and returns logits `[N, num_classes]`. A detector, `ssd*`,
    returns `{"boxes": [N, P, 4], "scores": [N, P, 1 + num_classes]}`, offsets from its priors and logits, of which the
    first is the background's; `model.detection` is its head. `method` is a name of `bbg.methods.METHODS` ("float" is
    the real-valued twin) or a Method. Weights are drawn from torch's global
    generator. The networks, and `options` with their defaults:

        resnet20        blocks=3 width=16 in_channels=3 act=None
        resnet8         blocks=1 width=16 in_channels=3 act=None
        resnet18        blocks=(2, 2, 2, 2) width=64 in_channels=3 act=None shortcut='conv' stem='imagenet'
        resnet18_cifar  blocks=(2, 2, 2, 2) width=64 in_channels=3 act=None shortcut='conv' stem='cifar'
        resnet34        blocks=(3, 4, 6, 3) width=64 in_channels=3 act=None shortcut='conv' stem='imagenet'
        resnet_light    width=32 in_channels=3 act='rprelu' stem='imagenet'
        vgg_small       width=128 in_channels=3 size=32 act=None
        vgg16           width=64 in_channels=3 act=None
        bbgnet_xs       width=16 in_channels=3 act=None
        bbgnet_s        width=32 in_channels=3 act=None
        bbgnet_m        width=32 in_channels=3 act=None
        bbgnet_l        width=32 in_channels=3 act=None
        bbgnet_224      width=64 in_channels=3 act=None
        ssd_light       width=32 in_channels=3 size=(240, 320) act='rprelu' heads='conv' stem='imagenet'
        ssd_mixed       width=16 in_channels=3 size=(240, 320) act='rprelu' heads='conv' stem='imagenet'
        ssd300_vgg16    width=64 in_channels=3 size=300 act=None heads='conv'
        ssd300_resnet18 blocks=(2, 2, 2, 2) width=64 in_channels=3 size=300 act=None heads='conv'
        ssd300_resnet34 blocks=(3, 4, 6, 3) width=64 in_channels=3 size=300 act=None heads='conv'

    - `width`: channels of the first stage.
    - `blocks`: pairs of convolutions per stage.
    - `act`: nonlinearity of the units, a name of `bbg.methods.ACTIVATIONS` such as "rprelu"; None takes the method's,
      and RPReLU in `bbgnet_*`.
    - `shortcut`: where the map is halved, "conv" (average pooling, a real-valued 1x1 convolution, BN) or "pool".
    - `stem`: "imagenet" (7x7 of stride 2, max-pool), "patch" (7x7 of stride 4) or "cifar" (3x3).
    - `heads`: of a detector, "conv", "separable" or "binary" (`bbg.models.ssd`).
    - `size`: side of the images, or (H, W); of vgg_small multiples of 8. A detector takes images of this size alone.

    `bits`: the width of layers, 1, 8 or 32 bits, one number for all or by pattern over qualified names, as in
    `{"first": 8, "units.0": 8, "last": 8}` (`bbg.layers.set_bits`). Without it the units have 1 bit (with method
    "float" 32), and the rest 32; in `bbgnet_*` the first and last layers and the first stages have 8
    (`bbg.models.bbgnet`), in `ssd_mixed` all up to
    stride 8 and the heads.

    Raises BbgError for an unknown name, method or option, and for `bits` that cannot be.
    """
    known = allowed_options(name)
    for option in options:
        if option not in known:
            raise BbgError(f"network {name!r} has no option {option!r}; {allowed(option, known)}")
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise BbgError(f"num_classes is {num_classes!r}, allowed are integers from 1")
    model = NETWORKS[name](num_classes, get(method), **options)
    return model if bits is None else set_bits(model, bits)


def list_models() -> list[str]:
    """The names that `create` takes, sorted."""
    return sorted(NETWORKS)


def allowed_options(name: str) -> dict[str, Any]:
    """The options of the network `name` and their defaults; BbgError for an unknown name."""
    if name not in NETWORKS:
        raise BbgError(f"unknown network {name!r}; {allowed(name, NETWORKS)}")
    parameters = inspect.signature(NETWORKS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("num_classes", "method")}
