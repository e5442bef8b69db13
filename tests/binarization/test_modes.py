"""What a network does in one mode only is done by the binarized network too, and else refused by name."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.binarizing import EXAMPLE, conv, what
from support.modes import FOLLOWED, Block, Called, CalledAct, Fixed
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.methods import Pointwise

torch.set_num_threads(1)


@pytest.mark.parametrize("name", FOLLOWED)
def test_it_does_in_either_mode_what_the_network_does(name: str) -> None:
    torch.manual_seed(0)
    make, draws = FOLLOWED[name]
    model = make()
    binary = bbg.binarize(model, example=EXAMPLE)
    assert binary.report.of("binary")
    with torch.no_grad():
        assert torch.equal(binary.train()(EXAMPLE), binary(EXAMPLE)) != draws
        always = name == "dropout in both modes"
        assert torch.equal(binary.eval()(EXAMPLE), binary(EXAMPLE)) != always


@pytest.mark.parametrize("name", [name for name in FOLLOWED if "batch norm called" in name])
def test_a_batch_norm_that_is_called_learns_its_statistics(name: str) -> None:
    """Its statistics are those of the batch, by numpy, mixed into 0 and 1 with a tenth; it goes into the unit."""
    torch.manual_seed(0)
    model = FOLLOWED[name][0]()
    binary = bbg.binarize(model, example=EXAMPLE)
    (unit,) = binary.report.of("binary")
    layer = binary.get_submodule(unit.name)
    norm: Any = layer.norm
    seen: list[Any] = []
    layer.conv.register_forward_hook(lambda m, args, y: seen.append(y.detach().numpy()))  # type: ignore[operator]
    binary.train()(EXAMPLE)
    axes = (0, 2, 3) if seen[0].ndim == 4 else (0,)
    assert np.allclose(norm.running_mean, 0.1 * seen[0].mean(axes), atol=1e-6)
    assert np.allclose(norm.running_var, 0.9 + 0.1 * seen[0].var(axes, ddof=1), atol=1e-5)
    owner = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert norm.running_mean is owner.running_mean
    assert norm.weight is owner.weight


def test_an_activation_inside_of_a_norm_is_replaced() -> None:
    """The proof undoes it in a network of its own: in the result it stood there again, and every sign was +1."""
    network = nn.Sequential(conv(3), CalledAct(4), conv(), conv())
    binary = bbg.binarize(network, example=EXAMPLE)
    (row,) = (row for row in binary.report.of("replaced") if row.layer == "ReLU")
    assert isinstance(binary.get_submodule(row.name), Pointwise)
    assert not [row for row in binary.report.of("binary") if "one sign only" in row.why]
    seen: list[torch.Tensor] = []
    binary.get_submodule("2").register_forward_hook(lambda layer, given, result: seen.append(given[0]))
    binary(EXAMPLE)
    assert 0.1 < (seen[0] >= 0).float().mean() < 0.9


def test_a_batch_norm_frozen_by_its_argument_stays_frozen() -> None:
    def frozen(m: Any, x: Tensor) -> Tensor:
        return F.batch_norm(x, m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias, False)

    model = Block(frozen, n=nn.BatchNorm2d(4))
    bbg.binarize(model, example=EXAMPLE).train()(EXAMPLE)
    assert model.n.running_mean.abs().max() == 0


# ---- train() ---------------------------------------------------------------------------------------------------------


def test_batch_norms_that_train_keeps_frozen_stay_frozen() -> None:
    model = Fixed(nn.BatchNorm2d, False, conv(3), conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), conv())
    binary = bbg.binarize(model, example=EXAMPLE)
    assert what(binary)["1"] == ("binary", "2 goes inside")
    for net in (binary, copy.deepcopy(binary), nn.Sequential(binary)):
        before = [buffer.clone() for buffer in net.buffers()]
        net.train()(EXAMPLE)
        assert all(map(torch.equal, before, net.buffers()))


def test_called_batch_norms_that_train_keeps_frozen_stay_frozen() -> None:
    model = Fixed(Called, False, conv(3), conv(), Called(4), conv())
    bbg.binarize(model, example=EXAMPLE).train()(EXAMPLE)
    assert model[2].running_mean.abs().max() == 0


def test_dropout_that_is_always_on_stays_on() -> None:
    binary = bbg.binarize(Fixed(nn.Dropout, True, conv(3), conv(), nn.Dropout(), conv()), example=EXAMPLE).eval()
    assert not torch.equal(binary(EXAMPLE), binary(EXAMPLE))


def test_modes_are_those_that_they_were() -> None:
    model = Fixed(nn.Dropout, True, conv(3), conv(), nn.Dropout(), nn.BatchNorm2d(4), conv()).eval()
    model[3].training = True
    before = [module.training for module in model.modules()]
    binary = bbg.binarize(model, example=EXAMPLE)
    assert [module.training for module in model.modules()] == before
    assert not binary.training
    assert binary.get_submodule("3").training


# ---- what the caller has stays his ----------------------------------------------------------------------------------


def test_statistics_counters_and_random_states_stay() -> None:
    model = nn.Sequential(conv(3), conv(), Called(4), nn.Dropout(), conv())
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    bbg.binarize(model, example=EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # type: ignore[index,arg-type]
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- refused by name -------------------------------------------------------------------------------------------------


def chance_of_python(m: Any, x: Tensor) -> Tensor:
    return x * 2 if m.training and random.random() < 0.5 else x


def chance_of_numpy(m: Any, x: Tensor) -> Tensor:
    return x * float(np.random.rand()) if m.training else x


def two_tensors(m: Any, x: Tensor) -> Tensor:
    y = torch.tanh(x)
    return x + y if m.training else x * 3 - y


def counted(m: Any, x: Tensor) -> Tensor:
    if m.training:
        m.steps += 1
    return x * float(m.steps)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the chance of Python": (lambda: Block(chance_of_python), "draws other random numbers"),
    "the chance of numpy": (lambda: Block(chance_of_numpy), "draws other random numbers"),
    "two tensors that the modes join in other ways": (lambda: Block(two_tensors), "of more than one tensor"),
    "a buffer that is read as a number": (
        lambda: Block(counted, steps=1),
        "differs by .* of the largest number, in evaluation mode",
    ),
    "a second input in training mode": (
        lambda: Block(lambda m, x: x.undefined if m.training else x),
        "cannot run in training mode",
    ),
    "a scripted child": (
        lambda: nn.Sequential(conv(3), torch.jit.script(nn.Sequential(conv(), nn.ReLU())), conv()),
        r"1 \(RecursiveScriptModule\): it is scripted",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_followed_is_refused_by_name(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(BbgError, match=sentence):
        bbg.binarize(make(), example=EXAMPLE)
