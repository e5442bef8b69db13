"""Every network by every method: shapes, gradients, round trips, seeds; and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError
from bbg.layers import Projection, Unit
from bbg.layers.bits import bits_of
from bbg.methods import METHODS
from bbg.models import NETWORKS, allowed_options, create, list_models

torch.set_num_threads(1)

CLASSIFIERS = [name for name in NETWORKS if not name.startswith("ssd")]  # detectors: tests/models/test_ssd.py

# A network that is not in these tables is tested 4 channels wide, on images of 32 x 32.
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"width": 4} for name in CLASSIFIERS},
    "resnet8": {"width": 5, "in_channels": 1, "act": "rprelu"},
    "resnet34": {"width": 3, "act": "prelu", "shortcut": "pool"},
    "resnet18_cifar": {"width": 4, "shortcut": "pool"},
    "vgg_small": {"width": 4, "size": 16},
}
SIZES = {
    **{name: [(32, 32)] for name in CLASSIFIERS},
    "resnet20": [(9, 7), (1, 1)],
    "resnet8": [(8, 8), (13, 6)],
    "resnet18": [(32, 32), (45, 70)],
    "resnet34": [(40, 33)],
    "resnet18_cifar": [(16, 16), (9, 20)],
    "vgg_small": [(16, 16)],
}
METHOD_LIST = list(METHODS.values())
BYTES = {"bbgnet_xs": 4, "bbgnet_s": 4, "bbgnet_m": 8, "bbgnet_l": 8, "bbgnet_224": 8}  # units of 8 bits
UNITS = {"resnet20": 18, "resnet8": 6, "resnet18": 16, "resnet34": 32, "resnet18_cifar": 16, "vgg_small": 5}
UNITS |= {"resnet_light": 14, "vgg16": 14}
UNITS |= {"bbgnet_xs": 8, "bbgnet_s": 6, "bbgnet_m": 12, "bbgnet_l": 16, "bbgnet_224": 16}


def images(network: str, size: tuple[int, int], n: int = 3) -> Tensor:
    return torch.randn(n, SMALL[network].get("in_channels", 3), *size, generator=torch.Generator().manual_seed(0))


def small(network: str, method: Any = "bbg", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create(network, method, num_classes=7, **SMALL[network])


def test_the_docstring_of_create_lists_all_networks_and_options() -> None:
    text = create.__doc__ or ""
    listed = [line.strip() for line in text.splitlines() if line.strip().split(" ")[0] in NETWORKS]
    defaults = {name: " ".join(f"{k}={v!r}" for k, v in allowed_options(name).items()) for name in NETWORKS}
    assert listed == [f"{name:<16}{options}" for name, options in defaults.items()]
    for key in {key for name in NETWORKS for key in allowed_options(name)} - {"in_channels"}:
        assert f"- `{key}`: " in text


def test_list_models() -> None:
    assert bbg.list_models() == list_models() == sorted(NETWORKS)


@pytest.mark.parametrize("method", METHOD_LIST, ids=lambda m: m.name)
@pytest.mark.parametrize("network", SMALL)
def test_forward_and_backward_in_both_modes(network: str, method: Any) -> None:
    for size in SIZES[network]:
        model = small(network, method)
        x = images(network, size)
        logits = model(x)
        assert logits.shape == (3, 7)
        logits.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        grads = [p.grad.abs().max() for p in model.parameters() if p.ndim == 4]
        assert min(grads) > 0
        model.eval()
        with torch.no_grad():
            whole = model(x)
            # In evaluation an image's logits do not depend on its batch.
            assert torch.allclose(torch.cat([model(one[None]) for one in x]), whole, rtol=1e-4, atol=1e-4)
            assert torch.isfinite(whole).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", SMALL)
def test_the_widths_of_the_layers(network: str, method: str) -> None:
    """The units at 1 bit and the ends real-valued; in a bbgnet 8 bits at the ends, and in units before those of 1."""
    model = small(network, method)
    shortcuts = [layer for m in model.modules() if isinstance(m, Projection) for layer in m.modules()]
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in shortcuts]
    units = sum(isinstance(m, Unit) for m in model.modules())
    edge = 8 if network in BYTES and method != "float" else 32
    eights = BYTES.get(network, 0)
    inner = [32] * units if method == "float" else [8] * eights + [1] * (units - eights)
    assert [bits_of(m) for m in layers] == [edge, *inner, edge]
    assert units == len(layers) - 2 == UNITS.get(network, units) > 0


@pytest.mark.parametrize("network", SMALL)
def test_float_is_the_twin_of_bbg(network: str) -> None:
    def layers(method: str) -> list[Any]:
        found = [m for m in small(network, method).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        return [(m.weight.shape, getattr(m, "stride", None), getattr(m, "padding", None)) for m in found]

    assert layers("float") == layers("bbg")


def test_published_sizes() -> None:
    """ResNet-20 has 0.27 million weights (He et al., table 6); VGG-Small's convolutions 4.57 million (as in LQ-Net)."""
    resnet = create("resnet20", "float", num_classes=10)
    assert sum(p.numel() for p in resnet.parameters() if p.ndim >= 2) == 268_336
    vgg = create("vgg_small", "float", num_classes=10)
    assert sum(p.numel() for p in vgg.parameters() if p.ndim == 4) == 4_574_592
    assert vgg(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    # torchvision's: 11,689,512 and 21,797,672 parameters. Ours have no bias, a hinge or a gate more, and nothing else.
    for name, weights in (("resnet18", 11_678_912), ("resnet34", 21_779_648)):
        resnet = create(name, "float", num_classes=1000)
        assert sum(p.numel() for p in resnet.parameters() if p.ndim >= 2) == weights


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", SMALL)
def test_state_dict_round_trip(network: str, method: str) -> None:
    one, two = small(network, method), small(network, method, seed=1).eval()
    x = images(network, SIZES[network][0])
    one(x)  # moves the BN statistics
    one.eval()
    with torch.no_grad():
        assert not torch.equal(one(x), two(x))
        two.load_state_dict(one.state_dict(), strict=True)
        assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("network", SMALL)
def test_initial_weights_are_a_function_of_the_seed(network: str) -> None:
    one, same, other = (small(network, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: create("resnet21", num_classes=10), "unknown network 'resnet21'; allowed are resnet20, resnet8, res"),
        (lambda: create("resnet20", "bgb", num_classes=10), "unknown method 'bgb'; allowed are bbg"),
        (lambda: create("resnet20", num_classes=10, deph=3), "network 'resnet20' has no option 'deph'; allowed are "),
        (lambda: create("resnet20", num_classes=10, act="gelu"), "unknown nonlinearity 'gelu'; allowed are "),
        (lambda: create("resnet20", num_classes=0), "num_classes is 0, allowed are integers from 1"),
        (lambda: create("resnet20", num_classes=2.5), "num_classes is 2.5, allowed are integers"),  # type: ignore
        (lambda: create("resnet20", num_classes="10"), "num_classes is '10', allowed are integers"),  # type: ignore
        (lambda: create("resnet18", num_classes=10, shortcut="maxpool"), "shortcut is 'maxpool', allowed are 'conv'"),
        (lambda: create("vgg_small", num_classes=10, size=30), "size is 30, allowed are multiples of 8"),
    ],
)
def test_bad_requests_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()
