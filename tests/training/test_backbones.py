"""A classifier's weights as the start of a detector: the maps that the detector reads are those of the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.trainings import first
from support.voc import write_voc
from torch import Tensor, nn

import bbg
from bbg.data import Split, open_data, open_recipe
from bbg.errors import BbgError
from bbg.layers import Unit
from bbg.methods import METHODS
from bbg.recipe import Recipe
from bbg.training.loop import LAST, train
from bbg.training.transfer import Weights

torch.set_num_threads(1)

# A detector, the classifier of its backbone, how many of its maps are that one's, and options of both.
PAIRS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ssd_light": ("resnet_light", 4, {"width": 4}),
    "ssd300_resnet18": ("resnet18", 3, {"width": 4}),
    "ssd300_resnet34": ("resnet34", 3, {"width": 3}),
    "ssd300_vgg16": ("vgg16", 2, {"width": 2}),
}


def classifier(name: str, method: str = "bbg", seed: int = 1) -> nn.Module:
    """Weights and statistics, none of which are what a new network has."""
    torch.manual_seed(seed)
    network, _, options = PAIRS[name]
    model = bbg.create(network, method, num_classes=9, **options)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.detach().add_(0.1 * torch.rand_like(tensor))
    return model.eval()


def detector(name: str, method: str = "bbg", classes: int = 80, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    size = (257, 260) if name == "ssd300_vgg16" else (72, 100)
    return bbg.create(name, method, num_classes=classes, size=size, **(PAIRS[name][2] | options)).eval()


def read_by(module: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    """What `module` gets while the model sees `x`."""
    found: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("method", ["bbg", "xnor"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_maps_are_those_of_the_classifier(name: str, method: str) -> None:
    """With so many classes that most of what the detector learns is new, and with none of it in the report."""
    given, taker = classifier(name, method), detector(name, method, classes=300)
    x = torch.randn(1, 3, *((257, 260) if name == "ssd300_vgg16" else (72, 100)))
    plan = Weights("given", given.state_dict()).give_to(taker)
    before = taker.norms[PAIRS[name][1] - 1]  # type: ignore[index]
    assert torch.equal(read_by(before, taker, x), read_by(given.pool, given, x))  # type: ignore[arg-type]
    assert set(plan.left) == {"head.weight", "head.bias"}
    assert plan.share == 1
    assert {key.split(".")[0] for key in plan.new} <= {"stages", "norms", "boxes", "scores"}
    assert sum(taker.state_dict()[key].numel() for key in plan.taken) == sum(
        tensor.numel() for key, tensor in given.state_dict().items() if not key.startswith("head")
    )
    assert all(torch.equal(taker.state_dict()[key], tensor) for key, tensor in plan.taken.items())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "xnor"])
def test_a_float_classifier_starts_a_binary_detector(method: str) -> None:
    plan = Weights("given", classifier("ssd_light", "float").state_dict()).give_to(detector("ssd_light", method))
    assert set(plan.left) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("heads", ["separable", "binary"])
def test_other_heads_change_nothing(heads: str) -> None:
    weights = Weights("given", classifier("ssd_light").state_dict())
    assert weights.give_to(detector("ssd_light", heads=heads)).share == 1


def test_a_detector_starts_from_one_of_other_classes() -> None:
    given = detector("ssd_light", classes=3)
    plan = Weights("given", given.state_dict()).give_to(detector("ssd_light", classes=5))
    assert set(plan.left) == {f"scores.{i}.{part}" for i in range(4) for part in ("weight", "bias")}


@pytest.mark.parametrize("method", ["bbg", "xnor"])
@pytest.mark.parametrize("form", ["as it is", "in DataParallel"])
@pytest.mark.parametrize("detects", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "vgg16", "vgg16_bn"])
def test_torchvision_gives_its_weights(name: str, detects: bool, form: str, method: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
        ours = name.removesuffix("_bn")
        taker = bbg.create(f"ssd300_{ours}" if detects else ours, method, num_classes=20)
    prefix = "module." if form == "in DataParallel" else ""
    plan = Weights("theirs", {prefix + key: tensor for key, tensor in state.items()}).plan(taker)
    plan.check()
    theirs = [t for key, t in state.items() if t.ndim == 4 and "downsample" not in key]
    layers = [m.conv if isinstance(m, Unit) else m for m in taker.modules() if isinstance(m, (Unit, nn.Conv2d))]
    wanted = [next(key for key, p in taker.named_parameters() if p is layers[0].weight)]
    wanted += [f"{key}.conv.weight" for key, m in taker.named_modules() if isinstance(m, Unit)]
    assert all(plan.taken[key] is tensor for key, tensor in zip(wanted, theirs, strict=False))
    assert len([key for key, tensor in plan.taken.items() if tensor.ndim == 4]) == len(
        [t for t in state.values() if t.ndim == 4]
    )
    assert all("fc." in key or "classifier." in key or key.endswith(".bias") for key in plan.left)
    assert "other names" in str(plan)


def test_the_reduced_vgg_of_ssd_gives_all_of_its_convolutions() -> None:
    """`features` by number, conv6 and conv7 behind them, as the ports of vgg16_reducedfc have them."""
    with torch.device("meta"):
        features = torchvision.models.vgg16().features.state_dict()
        more = {"31.weight": torch.empty(1024, 512, 3, 3), "33.weight": torch.empty(1024, 1024, 1, 1)}
        taker = bbg.create("ssd300_vgg16", num_classes=20)
    plan = Weights("theirs", {**features, **more}).plan(taker)
    assert plan.fits()
    assert len(plan.taken) == 15
    assert plan.taken["stages.1.5.conv.weight"] is more["33.weight"]


def part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if "norm" in key or "gate" in key}


REFUSED = {
    "a small part": lambda: part(classifier("ssd300_resnet18").state_dict()),
    "other stages": lambda: classifier("ssd_light").state_dict(),
    "another width": lambda: bbg.create("resnet18", num_classes=9, width=8).state_dict(),
    "heads alone": lambda: {
        key: tensor
        for key, tensor in detector("ssd300_resnet18").state_dict().items()
        if key.startswith(("boxes", "scores", "stages.3", "stages.4", "stages.5"))
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_backbone_of_it_is_refused(case: str) -> None:
    taker = detector("ssd300_resnet18")
    with pytest.raises(BbgError, match="are those of another network"):
        Weights("given", REFUSED[case]()).give_to(taker)


def test_a_checkpoint_of_a_classifier_starts_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    digits = open_data("digits", None, 32)
    classes = Recipe(dataset="digits", network="resnet_light", width=4, epochs=1, batch_size=16, size=32)
    train(classes, Split(first(digits.train, 32), first(digits.test, 16)), tmp_path / "classes", progress=False)
    recipe = Recipe(dataset="voc", task="detection", network="ssd_light", size="72x96", width=4, epochs=1, batch_size=4)
    recipe = recipe.changed({"mode": "L", "mean": [0.5], "std": [0.5], "lr": 0.0})
    split = open_recipe(recipe, write_voc(tmp_path / "data", 4, 2))
    with caplog.at_level("INFO", "bbg"):
        state = train(recipe, split, tmp_path / "run", init=tmp_path / "classes" / LAST, progress=False)
    weights = Weights.read(tmp_path / "classes" / LAST)
    before, same = weights.tensors, (weights.trained.preprocess.mean, weights.trained.preprocess.std)  # type: ignore[union-attr]
    for taker, said in (
        (bbg.create("resnet_light", num_classes=10, in_channels=1, width=4), 1),
        (detector("ssd_light"), 0),
    ):
        remarks = weights.remarks(weights.plan(taker), tuple("abcdefghij"), same)
        assert len(remarks) == said, remarks
    learned = [key for key in before if key.endswith("conv.weight")]
    assert len(learned) > 14
    assert all(torch.equal(state.model[key], before[key]) for key in learned)
    told = next(r.getMessage() for r in caplog.records if "tensors taken" in r.getMessage())
    assert "2 left" in told
