"""Where `check`, `convert`, `binarize` and `fit` are called from changes neither what they do nor the state there."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trainings import bits, first
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.binarization import Binarized
from bbg.data import Split, open_data
from bbg.recipe import Recipe
from bbg.training.loop import train

torch.set_num_threads(1)


def example() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return bbg.create("resnet8", width=4, num_classes=3)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES: dict[str, Callable[[], object]] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta device": lambda: default_device("meta"),
    "meta device, as a context": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "numpy raises": lambda: np.errstate(all="raise"),
}


def state() -> tuple[object, ...]:
    device = torch.empty(0).device
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        device,
        torch.get_num_threads(),
        tuple(np.geterr().items()),
    )


@pytest.mark.parametrize("name", STATES)
def test_the_file_is_the_same(name: str, tmp_path: Path) -> None:
    model, x = network(), example()
    bbg.convert(model, tmp_path / "plain", x, preprocess=bbg.Preprocess(16), edges="int8")
    with STATES[name]():  # type: ignore[attr-defined]
        before = state()
        bbg.check(model, x)
        bbg.convert(model, tmp_path / "there", x, preprocess=bbg.Preprocess(16), edges="int8")
        assert state() == before
    assert (tmp_path / "there").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("name", STATES)
def test_the_binarized_network_is_the_same_and_learns(name: str) -> None:
    x = example()
    plain = bbg.binarize(convolutions(), example=x)
    model = convolutions()
    with STATES[name]():  # type: ignore[attr-defined]
        before = state()
        found = bbg.binarize(model, example=x)
        assert state() == before
    wanted = plain.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in found.state_dict().items())
    found.train()(x).sum().backward()
    assert all(p.grad is not None for p in found.parameters())


@pytest.fixture(scope="module")
def few() -> Split:
    return Split(*(first(half, 64) for half in open_data("digits", None)))


RECIPE = Recipe(dataset="digits", network="resnet8", width=4, epochs=1, batch_size=32, flip=False, crop_padding=0)


@pytest.fixture(scope="module")
def undisturbed(few: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return bits(train(RECIPE, few, tmp_path_factory.mktemp("run") / "new", progress=False).model)


@pytest.mark.parametrize("name", STATES)
def test_a_training_is_the_same(name: str, few: Split, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    torch.manual_seed(RECIPE.seed)
    module = bbg.create("resnet8", width=4, num_classes=10, in_channels=1)
    with STATES[name]():  # type: ignore[attr-defined]
        before = state()
        fitted = bbg.fit(module, RECIPE, few, progress=False)
        trained = train(RECIPE, few, tmp_path / "run", progress=False)
        assert state() == before
    assert bits(trained.model) == undisturbed
    assert bits(fitted.model) == undisturbed


def test_parameters_that_cannot_be_trained_are_refused(few: Split) -> None:
    with torch.inference_mode():
        model = convolutions()
    with pytest.raises(BbgError, match=r"0\.weight was made in torch\.inference_mode"):
        bbg.fit(model, RECIPE, few, progress=False)
    with pytest.raises(BbgError, match=r"0\.weight was made in torch\.inference_mode"):
        bbg.binarize(model, example=example())
    bbg.check(model, example())  # there is nothing to train in a conversion


def test_a_binarized_network_is_pickled_with_its_report() -> None:
    x = example()
    binary = bbg.binarize(convolutions(), example=x).eval()
    found = pickle.loads(pickle.dumps(binary))
    assert isinstance(found, Binarized)
    assert type(found).__name__ == type(binary).__name__ == "Sequential"
    assert str(found.report) == str(binary.report)
    assert not found.training
    assert torch.equal(found(x), binary(x))
    assert torch.equal(pickle.loads(pickle.dumps(found))(x), binary(x))


def test_an_engine_says_how_to_send_it(tmp_path: Path) -> None:
    bbg.convert(network(), tmp_path / "n", example())
    with pytest.raises(BbgError, match="send the path of the packed file"):
        pickle.dumps(bbg.load(tmp_path / "n"))


@pytest.mark.parametrize("source", [b"net.bbg", None, 3])
def test_only_a_path_or_a_name_is_loaded(source: object) -> None:
    with pytest.raises(BbgError, match="loaded by its path, or by a name of the zoo"):
        bbg.load(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["labels", "provenance"])
def test_what_is_no_text_is_refused(where: str, tmp_path: Path) -> None:
    given = {"labels": {"labels": ["a\udce9", "b", "c"]}, "provenance": {"provenance": {"note": "\ud800"}}}[where]
    with pytest.raises(BbgError, match="which is no character"):
        bbg.convert(network(), tmp_path / "n", example(), **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_extreme_scores_are_ranked_where_numpy_raises(tmp_path: Path) -> None:
    model = network().eval()
    with torch.no_grad():
        model.head.weight.mul_(1e6)  # type: ignore[operator,union-attr]
    bbg.convert(model, tmp_path / "n", example(), preprocess=bbg.Preprocess(16), labels=["a", "b", "c"])
    engine = bbg.load(tmp_path / "n")
    with np.errstate(all="raise"):
        assert engine.predict(np.full((16, 16, 3), 200, np.uint8))[0].score == 1
