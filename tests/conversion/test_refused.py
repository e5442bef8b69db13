"""What conversion refuses: the layer, its place, what is allowed, and what to do; nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.lowering import EXAMPLE, Functional
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.optim.swa_utils import AveragedModel

import bbg
from bbg import BbgError
from bbg.layers import BinaryConv2d
from bbg.methods import METHODS, Binarizer, BinarizerForm, Method


def _reads_a_view(x: Tensor, c: nn.Module) -> Tensor:
    y: Tensor = c(x)
    view = y[:, :2]
    return torch.cat([F.relu(y, inplace=True), view], 1)


torch.set_num_threads(1)


class DependsOnInput(Binarizer):
    """A threshold that is computed from the activations."""

    def __init__(self, channels: int) -> None:
        super().__init__(axis=1)

    def form(self, x: torch.Tensor) -> BinarizerForm:
        return BinarizerForm(threshold=x.mean((0, 2, 3)))


class Tricky(nn.Module):
    """A branch on numbers: torch.fx cannot follow it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def flattened(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sequential(nn.Flatten(), *layers))


REFUSED: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "a layer without a rule": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.FractionalMaxPool2d(2, 3))),
        ("1.1 (FractionalMaxPool2d)", "cannot be converted", "use nn.MaxPool2d"),
    ),
    "a function without a rule": (
        nn.Sequential(nn.Conv2d(3, 4, 3), Functional(lambda x: torch.cumsum(x, 1))),
        ("1.cumsum (Functional)", "cannot be converted", "leave it out"),
    ),
    "several kinds without a rule": (
        nn.Sequential(nn.Conv3d(3, 4, 2), nn.Hardshrink(), nn.Softmin(1)),
        ("0 (Conv3d)", "use its 2-D kind", "1 (Hardshrink)", "2 (Softmin)"),
    ),
    "a branch on numbers": (
        nn.Sequential(nn.Identity(), Tricky()),
        ("1 (Tricky)", "torch.fx cannot trace", "write it"),
    ),
    "padding mode": (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        ("0 (Conv2d)", "'reflect'", "'zeros'"),
    ),
    "asymmetric padding": (
        nn.Sequential(nn.Conv2d(3, 4, 4, padding="same")),
        ("0 (Conv2d)", "not symmetric", "odd kernel"),
    ),
    "indices": (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), ("0 (MaxPool2d)", "return_indices")),
    "divisor": (nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), ("AvgPool2d", "divisor_override")),
    "a window beside the map": (
        nn.Sequential(nn.MaxPool2d(2, dilation=17, padding=1)),
        ("0 (MaxPool2d)", "dilation"),
    ),
    "no running statistics": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        ("1 (BatchNorm2d)", "running statistics", "track_running_stats=True"),
    ),
    "batch norm of a flattened map": (
        flattened(nn.BatchNorm1d(2 * 14 * 14)),
        ("1.1 (BatchNorm1d)", "14 x 14 map", "before flattening"),
    ),
    "a linear layer on a map": (nn.Sequential(nn.Linear(16, 3)), ("0 (Linear)", "flatten")),
    "an activation that depends on the input": (
        nn.Sequential(BinaryConv2d(3, 4, 3, method=Method("own", METHODS["bbg"].weight, DependsOnInput))),
        ("0 (BinaryConv2d)", "threshold", "depends on the input"),
    ),
    "a maximum with a constant": (
        Functional(lambda x: torch.maximum(x, torch.ones(3, 1, 1))),
        ("maximum (Functional)", "torch.clamp"),
    ),
    "a power of the images": (
        Functional(lambda x: x ** x.mean(1, keepdim=True)),
        ("pow_1 (Functional)", "a power that depends on the images"),
    ),
    "a power without end": (Functional(lambda x: x ** float("inf")), ("pow_1 (Functional)", "the power inf")),
    "a logarithm of what is negative": (Functional(torch.log), ("log (Functional)", "not finite", "clamp(min=1e-6)")),
    "a logarithm of zeros": (Functional(lambda x: x.relu().log()), ("log (Functional)", "not finite")),
    "a root of what is negative": (Functional(lambda x: x**0.3), ("pow_1 (Functional)", "not finite")),
    "a negative base": (Functional(lambda x: (-2.0) ** x), ("use a positive base",)),
    "a softplus that jumps": (nn.Sequential(nn.Softplus(threshold=3)), ("0 (Softplus)", "threshold is 3", "use 20")),
    "a softplus of nothing": (nn.Sequential(nn.Softplus(beta=0)), ("0 (Softplus)", "beta is 0")),
    "a division by zero": (Functional(lambda x: x / 0), ("truediv (Functional)", "divides by 0")),
    "a tensor changed of which a view is read again": (
        Functional(_reads_a_view, nn.Conv2d(3, 4, 3)),
        ("relu (Functional)", "in place", "'getitem'", "copy"),
    ),
    "a random number in evaluation mode": (
        Functional(lambda x, c: c(x) + torch.randn(1, 4, 1, 1), nn.Conv2d(3, 4, 3)),
        ("(Functional)", "draws random numbers in evaluation mode", "training mode only"),
    ),
    "one of the images": (
        Functional(lambda x, c: c(x)[:1], nn.Conv2d(3, 4, 3)),
        ("getitem (Functional)", "first axis"),
    ),
    "all images as one": (
        Functional(lambda x, c: c(x).reshape(1, -1), nn.Conv2d(3, 4, 3)),
        ("reshape (Functional)", "of two images", "first axis"),
    ),
    "bounds that are tensors": (
        Functional(lambda x: torch.clamp(x, min=torch.zeros(3, 1, 1))),
        ("clamp (Functional)", "give numbers"),
    ),
    "a batch norm of the batch": (
        Functional(lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True)),
        ("batch_norm (Functional)", "it normalises by the images of a batch"),
    ),
    "a linear layer of the images": (
        Functional(lambda x: F.linear(x.mean((2, 3)), x.mean((2, 3)))),
        ("linear (Functional)", "its weight depends on the images"),
    ),
    "bounds that fall": (Functional(lambda x: x.clamp(1, -1)), ("clamp (Functional)", "[1, -1]", "first")),
    "a scripted network": (
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))),
        ("RecursiveScriptModule", "it is scripted"),
    ),
    "a lazy layer": (nn.Sequential(nn.LazyConv2d(4, 3)), ("cannot be copied", "run once")),
    "a bicubic resize": (nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic")), ("0 (Upsample)", "'bicubic'")),
    "places of maxima": (
        Functional(lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True)[0]),
        ("adaptive_max_pool2d", "with_indices"),
    ),
    "rows joined": (
        Functional(lambda x: torch.cat([x, x], 2)),
        ("output", "'cat'", "[N, 3, 32, 16]", "whole channels"),
    ),
    "a constant joined": (
        Functional(lambda x: torch.cat([x, torch.ones(2, 1, 16, 16)], 1)),
        ("cat (Functional)", "a constant"),
    ),
    "a transposed map": (
        Functional(lambda x, c: c(x.transpose(2, 3)), nn.Conv2d(3, 4, 3)),
        ("layers.0 (Conv2d)", "[3, 16, 16] rearranged", "whole channels"),
    ),
    "a norm of rows": (Functional(lambda x: F.layer_norm(x, (16,))), ("layer_norm (Functional)", "normalises [16]")),
    "a constant map": (
        Functional(lambda x: x + torch.arange(16.0)),
        ("add (Functional)", "differs within the 16 x 16 map"),
    ),
    "an unknown argument": (
        Functional(lambda x: torch.div(x, 2, rounding_mode="floor")),
        ("div (Functional)", "rounding_mode"),
    ),
    "active dropout": (Functional(lambda x: F.dropout(x)), ("dropout (Functional)", "training=self.training")),
    "transposing": (
        Functional(lambda x: x.reshape(-1, 3)),
        ("reshape (Functional)", "[512, 3] of two images", "first axis"),
    ),
    "an attribute": (Functional(lambda x: x.mT * 1.0), ("(Functional)", "'mT'", "shape")),
    "an input as output": (nn.Sequential(nn.Identity()), ("'input'", "no op writes")),
    "numbers that are not finite": (
        nn.Sequential(nn.utils.skip_init(nn.Conv2d, 3, 4, 3, bias=False)),
        ("0.weight", "not finite"),
    ),
}
nn.init.normal_(REFUSED["batch norm of a flattened map"][0][1][1].weight)  # type: ignore[index]
nn.init.constant_(REFUSED["numbers that are not finite"][0][0].weight, float("nan"))  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    model, words = REFUSED[case]
    path = tmp_path / "net.bbg"
    path.write_bytes(b"old")
    with pytest.raises(BbgError) as error:
        bbg.convert(model, path, EXAMPLE)
    for word in words:
        assert word in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_layers_are_found_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that sleeps comes first, one without a rule last."""
    monkeypatch.setattr(nn.ReLU, "forward", lambda layer, x: time.sleep(10))
    start = time.perf_counter()
    with pytest.raises(BbgError, match=r"1 \(Softmin\)"):
        bbg.convert(nn.Sequential(nn.ReLU(), nn.Softmin(1)), tmp_path / "net.bbg", EXAMPLE)
    assert time.perf_counter() - start < 1


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def _hooked(model: nn.Module, name: str, before: bool) -> nn.Module:
    module = model.get_submodule(name)
    if before:
        module.register_forward_pre_hook(lambda m, args: (args[0] / 4 + 1,))
    else:
        module.register_forward_hook(lambda m, args, out: out + 1)
    return model


def _patched(model: nn.Module, name: str) -> nn.Module:
    module = model.get_submodule(name)
    forward = module.forward
    module.forward = lambda x: forward(x) + 1  # type: ignore[assignment]
    return model


class Shifted(nn.ReLU):
    """Another activation than its forward says."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 1


class Around(nn.Sequential):
    """Normalises its images around its forward."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x / 4 + 1)


def _with_shifted(model: nn.Module) -> nn.Module:
    model.set_submodule("1", Shifted())
    return model


class ModelEma(nn.Module):
    """As timm has it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)


UNSEEN: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "a hook before the network": (lambda m: _hooked(m, "", True), r"the network \(\w+\): it has a forward hook"),
    "a hook behind the network": (lambda m: _hooked(m, "", False), "it has a forward hook"),
    "a hook of a layer": (lambda m: _hooked(m, "2", True), r"2 \(\w+\): it has a forward hook"),
    "a hook of a replaced activation": (lambda m: _hooked(m, "1", False), r"1 \(\w+\): it has a forward hook"),
    "a patched network": (lambda m: _patched(m, ""), r"the network \(\w+\): its forward was replaced"),
    "a patched layer": (lambda m: _patched(m, "7"), r"7 \(Linear\): its forward was replaced"),
    "a call of a layer": (_with_shifted, r"1 \(Shifted\): what is called around its forward is its own"),
    "a call of the network": (lambda m: Around(m), r"the network \(Around\): what is called around its forward"),
    "data parallel": (nn.DataParallel, "wrapped in DataParallel; give what it wraps, model.module"),
    "data parallel inside": (
        lambda m: nn.Sequential(nn.DataParallel(m)),
        r"0 is wrapped in DataParallel; give what it wraps, model\.0\.module",
    ),
    "averaged weights": (AveragedModel, "wrapped in AveragedModel"),
    "averaged weights of another library": (lambda m: ModelEma(m), "wrapped in ModelEma; give what it wraps"),
    "a state dict": (
        lambda m: m.state_dict(),  # type: ignore[arg-type,return-value]
        r"a OrderedDict; give the torch\.nn\.Module itself, with these weights loaded into it",
    ),
    "a class": (lambda m: type(m), r"a \w*type; give the torch\.nn\.Module itself$"),  # type: ignore[arg-type,return-value]
    "an exported program": (
        lambda m: torch.export.export(m, (torch.zeros(2, 3, 16, 16),)),  # type: ignore[arg-type,return-value]
        r"a ExportedProgram; give the torch\.nn\.Module itself$",
    ),
    "compiled": (lambda m: torch.compile(m, backend="eager"), "result of torch.compile"),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("case", UNSEEN)
@pytest.mark.parametrize("step", ["convert", "binarize", "check"])
@pytest.mark.parametrize("binarized", [False, True])
def test_what_no_forward_says_is_refused_and_never_lost(case: str, step: str, binarized: bool, tmp_path: Path) -> None:
    change, words = UNSEEN[case]
    example = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = change(bbg.binarize(small(), example=example).eval() if binarized else small())
    steps: dict[str, Callable[[], object]] = {
        "convert": lambda: bbg.convert(model, tmp_path / "net.bbg", example),
        "binarize": lambda: bbg.binarize(model, example=example),
        "check": lambda: bbg.check(model, example),
    }
    with pytest.raises(BbgError, match=words):
        steps[step]()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", [True, False])
def test_a_hook_of_all_modules_is_refused(before: bool) -> None:
    """One of the activations that binarization replaces would be lost, and no proof could see it."""
    register = nn.modules.module.register_module_forward_hook
    if before:
        register = nn.modules.module.register_module_forward_pre_hook
    handle = register(lambda m, *args: args[-1][0] + 1 if isinstance(m, nn.ReLU) else None)
    example = torch.randn(2, 3, 16, 16)
    try:
        for step in (lambda: bbg.check(small(), example), lambda: bbg.binarize(small(), example=example)):
            with pytest.raises(BbgError, match="a forward hook is registered for all modules"):
                step()
    finally:
        handle.remove()


def test_a_hook_that_makes_a_weight_is_no_fault(tmp_path: Path) -> None:
    model = small()
    weight_norm(model[2])
    report = bbg.convert(model, tmp_path / "net.bbg", torch.randn(4, 3, 16, 16))
    assert report.agreement.largest < 1e-5


class Typed(nn.Module):
    """A layer that keeps what is no tensor in its state, as those of torch.ao.quantization do."""

    def get_extra_state(self) -> object:
        return torch.float32

    def set_extra_state(self, state: object) -> None: ...

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


def test_a_state_that_is_no_tensor_is_no_fault(tmp_path: Path) -> None:
    report = bbg.convert(nn.Sequential(small(), Typed()), tmp_path / "net.bbg", torch.randn(4, 3, 16, 16))
    assert report.agreement.largest < 1e-5


@pytest.mark.parametrize("step", ["convert", "binarize"])
def test_torchs_error_is_one_line(step: str, tmp_path: Path) -> None:
    narrow = torch.randn(4, 2, 16, 16)
    with pytest.raises(BbgError, match=r"cannot run on an example \[2, 2, 16, 16\] \(.*channels") as caught:
        bbg.convert(small(), tmp_path / "n", narrow) if step == "convert" else bbg.binarize(small(), example=narrow)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


ENDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "Softmin": lambda m: nn.Sequential(m, nn.Softmin(1)),
    "argmax": lambda m: End(m, lambda x: x.argmax(1)),
}


class End(nn.Module):
    def __init__(self, network: nn.Module, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.end = network, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.network(x))


@pytest.mark.parametrize("name", ENDS)
def test_what_stands_behind_the_logits_is_told_to_go(name: str) -> None:
    with pytest.raises(BbgError, match=f"{name}.* cannot be converted; end the network at its logits") as caught:
        bbg.check(ENDS[name](small()), torch.randn(2, 3, 16, 16))
    assert len(str(caught.value)) < 200
