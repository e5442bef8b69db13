"""A binarized network learns from its own float self."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from support.factories import Small
from support.trainings import Stop, after, around_steps, bits, first, stop
from torch import Tensor, nn

import bbg
from bbg.binarization import Binarized
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.check import check_recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import FLOAT_SELF, LAST
from bbg.training.loop import train
from bbg.training.tasks.classification import Classification

RECIPE = Recipe(
    dataset="digits",
    epochs=2,
    batch_size=64,
    lr=5e-3,
    flip=False,
    crop_padding=0,
    checkpoint_steps=2,
)
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def small(seed: int = 0) -> Small:
    """A network whose running statistics are not those that they begin with."""
    torch.manual_seed(seed)
    net = Small()
    with torch.no_grad():
        net(IMAGES * 2)
    return net


def binarized(net: nn.Module) -> Binarized:
    return bbg.binarize(net, example=IMAGES[:2])


def logits(net: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(net).eval()(images)


@pytest.fixture(scope="module")
def digits() -> Split:
    torch.set_num_threads(1)
    whole = open_data("digits", None)
    return Split(first(whole.train, 320), first(whole.test, 64))


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The teachers of the trainings of a test, in their order."""
    found: list[nn.Module] = []
    make = Classification.__init__

    def wrapped(self: Classification, recipe: Recipe, classes: int, teacher: nn.Module | None = None) -> None:
        make(self, recipe, classes, teacher)
        found.extend([] if self.teacher is None else [self.teacher])

    monkeypatch.setattr(Classification, "__init__", wrapped)
    return found


def test_the_float_self_is_the_given_network_as_it_was() -> None:
    net = small()
    wanted = logits(net)
    binary = binarized(net)
    binary.train()(IMAGES)  # moves statistics that the two share
    assert not torch.equal(logits(net), wanted)
    found = binary.float_self.network()
    torch.testing.assert_close(logits(found), wanted, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in found.parameters())
    own = {p.data_ptr() for p in binary.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in found.parameters()), "a copy"


def test_nothing_is_copied_before_it_is_asked_for() -> None:
    binary = binarized(small())
    own = {p.data_ptr() for p in binary.parameters()}
    assert own >= {p.data_ptr() for p in binary.float_self.model.parameters()}


def test_copies_have_a_float_self_of_their_own() -> None:
    net = small()
    wanted, binary = logits(net), binarized(net)
    file = io.BytesIO()
    torch.save(binary, file)
    file.seek(0)
    for other in (copy.deepcopy(binary), torch.load(file, weights_only=False)):
        with torch.no_grad():
            other.get_parameter("head.weight").add_(1)
        with pytest.raises(BbgError, match=r"the float weights that bbg.binarize was given are gone"):
            other.float_self.network()
    torch.testing.assert_close(logits(binary.float_self.network()), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(copy.copy(binary).float_self.network()), wanted, rtol=0, atol=1e-5)


def test_the_logits_come_nearer_to_those_of_the_float_self(digits: Split) -> None:
    """Nearer than they were, and than the labels alone bring them."""
    images = torch.from_numpy(digits.preprocess.normalize(digits.test.images[:]))
    net, recipe = small(), RECIPE.changed({"epochs": 6})
    wanted, binary, other = logits(net, images), binarized(net), binarized(small())

    def distance(network: nn.Module) -> float:
        return float((logits(network, images) - wanted).square().mean())

    before = distance(binary)
    bbg.fit(binary, recipe, digits, teacher="self", progress=False)
    bbg.fit(other, recipe, digits, progress=False)
    assert distance(binary) < 0.5 * before
    assert distance(binary) < 0.5 * distance(other)


def test_the_teacher_stays_as_it_is(digits: Split, teachers: list[nn.Module], tmp_path: Path) -> None:
    binary = binarized(small())
    wanted = bits(copy.deepcopy(binary.float_self.network()).state_dict())
    bbg.fit(binary, RECIPE, digits, out=tmp_path, teacher="self", progress=False)
    (teacher,) = teachers
    assert bits({name: t.contiguous() for name, t in teacher.state_dict().items()}) == wanted
    assert bits(torch.load(tmp_path / FLOAT_SELF)) == wanted
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize("broken", [2, 3, 8])  # at a checkpoint, behind one, in the second epoch
def test_a_resumed_run_ends_with_the_same_bits(
    broken: int, digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bbg.fit(binarized(small()), RECIPE, digits, teacher="self", progress=False)
    binary, out = binarized(small()), tmp_path / "run"
    with monkeypatch.context() as patch:
        after(broken, stop, patch)
        with pytest.raises(Stop):
            bbg.fit(binary, RECIPE, digits, out=out, teacher="self", progress=False)
    if broken == 2:
        assert not out.exists(), "without a checkpoint there is no run, and no teacher"
        return
    # The network that went on, or one that was never given the float weights: they are those of the run.
    for again in (binary, binarized(small(seed=3))):
        folder = tmp_path / f"of {id(again)}"
        folder.mkdir()
        for file in (LAST, FLOAT_SELF, "recipe.toml", "run.json"):
            (folder / file).write_bytes((out / file).read_bytes())
        resumed = bbg.fit(again, RECIPE, digits, out=folder, resume=True, teacher="self", progress=False)
        assert bits(resumed.model) == bits(whole.model)
        assert resumed.teacher == whole.teacher


def test_a_run_is_not_resumed_with_other_float_weights(digits: Split, tmp_path: Path) -> None:
    longer = RECIPE.changed({"epochs": 3})
    bbg.fit(binarized(small()), RECIPE, digits, out=tmp_path, teacher="self", progress=False)
    assert Recipe.load(tmp_path / "recipe.toml").teacher == "self"
    content = (tmp_path / FLOAT_SELF).read_bytes()
    (tmp_path / FLOAT_SELF).write_bytes(content[:-100])
    with pytest.raises(BbgError, match=rf"{FLOAT_SELF}' is damaged; start a new run with --overwrite"):
        bbg.fit(binarized(small()), longer, digits, out=tmp_path, resume=True, teacher="self", progress=False)
    with pytest.raises(BbgError, match="the run has a teacher, here is none; give the same"):
        bbg.fit(binarized(small()), longer, digits, out=tmp_path, resume=True, progress=False)
    (tmp_path / FLOAT_SELF).unlink()
    with pytest.raises(BbgError, match="the teacher has other weights than that of the run"):
        bbg.fit(binarized(small(3)), longer, digits, out=tmp_path, resume=True, teacher="self", progress=False)
    bbg.fit(binarized(small()), longer, digits, out=tmp_path, resume=True, teacher="self", progress=False)
    assert (tmp_path / FLOAT_SELF).read_bytes() == content, "it is written again"
    bbg.fit(binarized(small()), RECIPE, digits, out=tmp_path, overwrite=True, progress=False)
    assert not (tmp_path / FLOAT_SELF).exists()


def test_a_second_training_has_the_same_teacher(digits: Split, teachers: list[nn.Module]) -> None:
    binary = binarized(small())
    for _ in range(2):
        bbg.fit(binary, RECIPE.changed({"epochs": 1}), digits, teacher="self", progress=False)
    one, other = teachers
    assert bits(one.state_dict()) == bits(other.state_dict())


def test_what_has_no_float_self_is_refused(digits: Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    around_steps(monkeypatch, before=lambda network: pytest.fail("it must not begin"))
    for module in (bbg.create("resnet8", num_classes=10, in_channels=1, width=4), small()):
        with pytest.raises(BbgError, match=r"the teacher is 'self', and the network \(\w+\) has no float self; give"):
            bbg.fit(module, RECIPE, digits, out=tmp_path / "run", teacher="self", progress=False)
    with pytest.raises(BbgError, match=r"and the network 'resnet8' of bbg.create has no float self"):
        check_recipe(RECIPE.changed({"network": "resnet8", "teacher": "self"}))
    trained = binarized(small())
    with torch.no_grad():
        trained.get_parameter("stem.weight").mul_(2)
    with pytest.raises(BbgError, match=r"changed since; binarize the float network anew, or give a copy of it"):
        bbg.fit(trained, RECIPE, digits, teacher="self", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_no_teacher_and_no_float32_is_refused(digits: Split, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="the teacher is a int; give a network, a path or 'self'"):
        bbg.fit(small(), RECIPE, digits, teacher=3, progress=False)  # type: ignore[arg-type]
    with pytest.raises(BbgError, match=r"is float16, a training takes float32; call \.float\(\) on the network"):
        bbg.fit(small().half(), RECIPE, digits, progress=False)
    recipe = RECIPE.changed({"epochs": 1})
    bbg.fit(small(), recipe, digits, out=tmp_path, progress=False)
    longer = RECIPE.changed({"epochs": 2})
    with pytest.raises(BbgError, match="the run has no teacher, here is one; leave it out"):
        bbg.fit(small(), longer, digits, out=tmp_path, resume=True, teacher=small(3), progress=False)


def test_weights_that_would_pass_the_teacher_by_are_refused(
    digits: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They go into the binary network alone, so that its float self would teach what it had before, silently."""
    torch.save(small(seed=5).state_dict(), tmp_path / "float.pth")
    with pytest.raises(BbgError, match=r"float\.pth' would go into the binary network, so its float self would teach"):
        bbg.fit(binarized(small()), RECIPE, digits, init=tmp_path / "float.pth", teacher="self", progress=False)
    recipe = RECIPE.changed({"factory": "support.factories:Small", "epochs": 1})
    train(recipe, digits, tmp_path / "binary", progress=False)
    again = recipe.changed({"teacher": "self", "weights": str(tmp_path / "binary" / LAST)})
    with pytest.raises(BbgError, match=r"load the weights of the float network before bbg\.binarize"):
        train(again, digits, tmp_path / "again", progress=False)
    assert not (tmp_path / "again").exists()
    assert "untrained" not in caplog.text
    train(recipe.changed({"teacher": "self"}), digits, tmp_path / "untrained", progress=False)
    assert "the teacher, the float network itself, is untrained" in caplog.text


def test_a_recipe_says_it_too(digits: Split, tmp_path: Path, teachers: list[nn.Module]) -> None:
    """With a factory; its float weights go in before the network becomes binary, so they are the teacher's."""
    net = small(seed=5)
    torch.save(net.state_dict(), tmp_path / "float.pth")
    recipe = RECIPE.changed(
        {
            "factory": "support.factories:Small",
            "weights": str(tmp_path / "float.pth"),
            "teacher": "self",
            "epochs": 1,
        }
    )
    check_recipe(recipe)
    train(recipe, digits, tmp_path / "run", progress=False)
    torch.testing.assert_close(logits(teachers[0]), logits(net), rtol=0, atol=1e-5)
    assert Checkpoint.load(tmp_path / "run" / LAST).recipe.teacher == "self"
    train(recipe.changed({"epochs": 2}), digits, tmp_path / "run", resume=True, progress=False)
    assert bits(teachers[0].state_dict()) == bits(teachers[1].state_dict())
