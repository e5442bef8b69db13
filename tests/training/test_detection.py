"""Detection: matching and loss by plain loops, and a training from pictures to a packed file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.voc import annotation, write_image, write_list, write_voc
from torch import nn

import bbg
from bbg.boxes import Level, corners, encode, iou, priors
from bbg.data import open_data, open_recipe
from bbg.data.loader import Loader
from bbg.errors import BbgError
from bbg.heads import Detection as Head
from bbg.recipe import Recipe
from bbg.training.check import check_recipe
from bbg.training.factory import build
from bbg.training.loop import fit, train, training_loader
from bbg.training.tasks import make_task
from bbg.training.tasks.detection import Detection, match

torch.set_num_threads(1)

RECIPE = Recipe(dataset="voc", task="detection", network="ssd_light", size="72x96", width=4, epochs=1, batch_size=4)
LEVELS = (Level((4, 5), ((0.2, 0.2), (0.3, 0.15))), Level((2, 2), ((0.5, 0.5),)))


def drawn(seed: int, images: int = 3, most: int = 5) -> np.ndarray:
    """Targets with none to `most` boxes, two of which may be of one place."""
    draws = np.random.default_rng(seed)
    found = np.zeros((images, most, 6), np.float32)
    found[:, :, 0] = -1
    for image in range(images):
        number = draws.integers(0, most + 1)
        corner = draws.uniform(0, 0.7, (number, 2))
        found[image, :number, 0] = draws.integers(0, 3, number)
        found[image, :number, 1:5] = np.concatenate((corner, corner + draws.uniform(0.05, 0.3, (number, 2))), 1)
    return found


def plainly_matched(target: np.ndarray) -> list[int]:
    """Of each prior the row of its box, -1 for none."""
    rows = [i for i in range(len(target)) if target[i, 0] >= 0]
    overlaps = iou(corners(priors(LEVELS)), target[:, 1:5]).astype(np.float32)
    found = []
    best = {i: int(overlaps[:, i].argmax()) for i in rows}
    for prior in range(len(overlaps)):
        claimed = [i for i in rows if best[i] == prior and overlaps[prior, i] > 0]
        choice = claimed or [i for i in rows if overlaps[prior, i] >= 0.5]
        found.append(max(choice, key=lambda i: overlaps[prior, i], default=-1))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_priors_take_the_boxes_of_a_plain_loop(seed: int) -> None:
    targets = drawn(seed)
    found = match(torch.from_numpy(targets), torch.from_numpy(priors(LEVELS).copy()))
    for image, target in enumerate(targets):
        wanted = plainly_matched(target)
        assert found.classes[image].tolist() == [int(target[i, 0]) + 1 if i >= 0 else 0 for i in wanted]
        for prior, row in enumerate(wanted):
            if row >= 0:
                assert found.boxes[image, prior].tolist() == target[row, 1:5].tolist()
        taken = {i for i in wanted if i >= 0}
        assert len(taken) >= min(1, int((target[:, 0] >= 0).sum()))


class Fixed(nn.Module):
    """A network that has priors, and makes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.detection = Head(LEVELS)


def task(smoothing: float = 0.0) -> Detection:
    made = make_task(RECIPE.changed({"label_smoothing": smoothing}), 3, None, Fixed())
    assert isinstance(made, Detection)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_a_plain_loop(seed: int) -> None:
    targets, number = drawn(seed), len(priors(LEVELS))
    torch.manual_seed(seed)
    outputs = {"boxes": torch.randn(3, number, 4), "scores": torch.randn(3, number, 4)}
    total, taken = 0.0, 0
    for image, target in enumerate(targets):
        wanted = plainly_matched(target)
        negatives = []
        for prior, row in enumerate(wanted):
            label = torch.tensor(0 if row < 0 else int(target[row, 0]) + 1)
            naming = float(F.cross_entropy(outputs["scores"][image, prior], label))
            if row < 0:
                negatives.append(naming)
                continue
            taken += 1
            offsets = torch.from_numpy(encode(target[row, 1:5], priors(LEVELS)[prior]))
            total += naming + float(F.smooth_l1_loss(outputs["boxes"][image, prior], offsets, reduction="sum"))
        positives = number - len(negatives)
        total += sum(sorted(negatives, reverse=True)[: max(3 * positives, 10)])
    loss = task().loss(outputs, torch.from_numpy(targets), torch.zeros(3, 3, 8, 8))
    assert float(loss) == pytest.approx(total / max(taken, 1), rel=1e-4)


def test_a_batch_without_boxes_has_a_loss_and_gradients() -> None:
    targets = np.zeros((2, 1, 6), np.float32)
    targets[:, :, 0] = -1
    number = len(priors(LEVELS))
    outputs = {name: torch.zeros(2, number, 4, requires_grad=True) for name in ("boxes", "scores")}
    loss = task().loss(outputs, torch.from_numpy(targets), torch.zeros(2, 3, 8, 8))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(20 * np.log(4), rel=1e-4)
    assert all(torch.isfinite(value.grad).all() for value in outputs.values() if value.grad is not None)
    assert float(task().metrics(outputs, torch.from_numpy(targets))["hit"]) == 0


def test_perfect_outputs_have_a_map_of_one(tmp_path: Path) -> None:
    data = open_data("voc", write_voc(tmp_path, 6, 2), (72, 96)).train
    judged = make_task(RECIPE, 2, None, model := bbg.create("ssd_light", num_classes=2, width=2, size=(72, 96)))
    all_priors = torch.from_numpy(priors(model.detection.levels).copy())  # type: ignore[union-attr, arg-type]
    answers = iter(Loader(data, 4, workers=0).epoch())

    class Oracle(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            wanted = match(next(answers)[1], all_priors)
            real = torch.where((wanted.classes > 0)[..., None], wanted.boxes, corners(all_priors, torch)[None])
            scores = 20.0 * F.one_hot(wanted.classes, 3)
            return {"boxes": encode(real, all_priors[None], torch), "scores": scores}

    figures = judged.evaluate(Oracle(), Loader(data, 4, workers=0))
    assert figures["map"] == pytest.approx(1)
    assert figures["map_11"] == pytest.approx(1)
    assert figures["loss"] < 1e-3


def test_the_loss_of_a_batch_falls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = bbg.create("ssd_light", num_classes=2, width=4, size=(72, 96))
    learned = make_task(RECIPE, 2, None, network)
    x, y = next(Loader(open_data("voc", write_voc(tmp_path, 4, 2), (72, 96)).train, 4, workers=0).epoch())
    optimizer, losses = torch.optim.Adam(network.parameters(), 5e-3), []
    for _ in range(12):
        loss = learned.loss(network(x), y, x)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_trained_detector_converts(tmp_path: Path) -> None:
    recipe = RECIPE.changed({"crop_scale": 0.5, "expand": 2, "colour": 0.5})
    split = open_recipe(recipe, write_voc(tmp_path / "data", 4, 2))
    state = train(recipe, split, tmp_path / "run", progress=False)
    assert {"loss", "hit", "test_loss", "test_map", "test_map_11"} <= set(state.history[-1])
    network = state.network(None).eval()
    example = next(Loader(split.test, 2, workers=0).epoch())[0]
    bbg.convert(network, tmp_path / "n.bbg", example, preprocess=split.preprocess, labels=split.classes, edges="fp32")
    boxes = bbg.load(tmp_path / "n.bbg").detect(split.test.items[0].image, score=0.01)  # type: ignore[attr-defined]
    assert {box.label for box in boxes} <= set(split.classes)


def test_the_engine_may_test_between_the_epochs(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "data", 4, 2)
    recipe = RECIPE.changed({"epochs": 2, "evaluation": "packed", "crop": "none", "keep_best": True, "held_out": 0.3})
    state = fit(bbg.create("ssd_light", num_classes=2, width=2, size=(72, 96)), recipe, open_recipe(recipe, root))
    assert "held_out_map" in state.history[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet20"}, "has its priors as the attribute 'detection'"),
        ({"task": "classification"}, "the images of 'voc' are for 'detection'"),
        ({"dataset": "folders"}, "the images of 'folders' are for 'classification'"),
        ({"size": 32}, "ssd_light: size is 32"),
    ],
    ids=str,
)
def test_a_recipe_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    check_recipe(RECIPE)
    check_recipe(RECIPE.changed({"size": None}) if not changes else RECIPE)
    with pytest.raises(BbgError, match=message):
        check_recipe(RECIPE.changed(changes))


def test_a_picture_larger_than_imagenets_is_no_error() -> None:
    """Pictures with boxes are resized whole: no short side of 256 is cut from."""
    check_recipe(Recipe.find("voc_ssd_light"))
    check_recipe(RECIPE.changed({"size": 512}))


def test_a_recipe_says_what_the_heads_are() -> None:
    network = build(RECIPE.changed({"heads": "separable"}), 2, bbg.Preprocess((72, 96)))
    assert any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in network.modules())
    with pytest.raises(BbgError, match="network 'resnet20' has no option 'heads'"):
        check_recipe(RECIPE.changed({"network": "resnet20", "heads": "separable"}))


def test_what_would_move_images_alone_is_refused(tmp_path: Path) -> None:
    split = open_data("voc", write_voc(tmp_path, 4, 2), (72, 96))
    for changes in ({"randaugment": 1}, {"crop": "padded"}):
        with pytest.raises(BbgError, match="move images and not their boxes"):
            training_loader(split, RECIPE.changed(changes))
    with pytest.raises(BbgError, match=r"recipe key 'expand' is 0\.5"):
        RECIPE.changed({"expand": 0.5})


def test_images_and_task_fit_each_other(tmp_path: Path) -> None:
    split, network = open_data("voc", write_voc(tmp_path, 4, 2), (72, 96)), bbg.create("resnet20", num_classes=2)
    with pytest.raises(BbgError, match=r'the images have boxes, and no class each; .* task = "detection"'):
        fit(network, RECIPE.changed({"task": "classification"}), split, progress=False)
    light = bbg.create("ssd_light", num_classes=10, width=2, size=64)
    with pytest.raises(BbgError, match="the task 'detection' takes images with boxes"):
        fit(light, RECIPE, open_data("digits", None, 64), progress=False)
    other = bbg.create("ssd_light", num_classes=3, width=2, size=(72, 96))
    with pytest.raises(BbgError, match=r"the network returns .*; its priors and classes take"):
        fit(other, RECIPE, split, progress=False)
    pupil, smaller = (bbg.create("ssd_light", num_classes=2, width=2, size=size) for size in ((72, 96), 64))
    with pytest.raises(BbgError, match="the teacher has other priors than the network"):
        fit(pupil, RECIPE, split, teacher=smaller, progress=False)


def test_a_teacher_is_learned_from_and_stays_as_it_is(tmp_path: Path) -> None:
    """By hand: the divergence of the classes of all priors, and offsets where the teacher sees an object."""
    torch.manual_seed(0)
    recipe = RECIPE.changed({"distill": 0.75, "temperature": 2.0})
    teacher, pupil = (bbg.create("ssd_light", "float", num_classes=2, width=2, size=(72, 96)).eval() for _ in range(2))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    images, targets = torch.randn(3, 3, 72, 96), torch.full((3, 1, 6), -1.0)
    targets[:2, 0] = torch.tensor([1, 0.1, 0.2, 0.6, 0.7, 0])
    losses = {}
    for name, given in (("taught", teacher), ("own", pupil), ("alone", None)):
        task = Detection(recipe, 2, given)
        task.of(pupil)
        losses[name] = float(task.loss(pupil(images), targets, images))
    ours, theirs = pupil(images), teacher(images)
    taken = int((match(targets, torch.tensor(priors(pupil.detection.levels))).classes > 0).sum())
    p, q = ((out["scores"] / 2).softmax(2) for out in (theirs, ours))
    naming = 4 * (p * (p.log() - q.log())).sum()
    apart = (ours["boxes"] - theirs["boxes"]).abs()
    smooth = torch.where(apart < 1, apart**2 / 2, apart - 0.5).sum(2)
    place = (smooth * (1 - theirs["scores"].softmax(2)[..., 0])).sum()
    wanted = 0.25 * losses["alone"] + 0.75 * float(naming + place) / taken
    assert losses["taught"] == pytest.approx(wanted, rel=1e-4)
    assert losses["own"] == pytest.approx(0.25 * losses["alone"], rel=1e-4)  # nothing is left to learn from itself
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    split = open_data("voc", write_voc(tmp_path, 4, 2), (72, 96))
    state = fit(pupil.train(), recipe, split, teacher=teacher, progress=False)
    assert np.isfinite([row["loss"] for row in state.history]).all()


def test_images_without_boxes_are_trained_on(tmp_path: Path) -> None:
    """A batch of nothing but background, and pictures of odd shapes."""
    grey = np.full((5, 400, 3), 128, np.uint8)
    for name, picture in (("1", grey), ("2", grey.transpose(1, 0, 2)), ("3", grey[:1, :1]), ("4", grey)):
        write_image(tmp_path, name, picture, annotation([("a", 1, 1, 4, 5)] if name == "4" else []))
    write_list(tmp_path, "train", ["1", "2", "3", "4"])
    write_list(tmp_path, "val", ["1", "4"])
    recipe = RECIPE.changed({"batch_size": 2})
    split = open_recipe(recipe, tmp_path)
    state = fit(bbg.create("ssd_light", num_classes=1, width=2, size=(72, 96)), recipe, split, progress=False)
    assert np.isfinite(state.history[-1]["loss"])
