"""Scoring a network on the test images of a data set: a checkpoint in torch, or a packed file in the engine.

Everything that needs torch is imported when it is used, so that the verbs of the runtime start without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bbg.errors import BbgError
from bbg.graph.signature import looks_like_checkpoint
from bbg.heads import Classification, Detection, Segmentation
from bbg.log import track
from bbg.reading import regular_file

if TYPE_CHECKING:
    from torch import nn

    from bbg.boxes import Boxes
    from bbg.data import BoxSet, Dataset, Labelled, MaskedImages, Split
    from bbg.engine import Engine
    from bbg.image import Preprocess
    from bbg.limits import Limits
    from bbg.training.checkpoint import Checkpoint
    from bbg.training.tasks import Task

BATCH = 250  # images per call of the engine
UNPREPROCESSED = "the model was packed without preprocessing, so images cannot be scored; convert it with one"
HEADLESS = "the model was packed without a head, which says how to score its outputs; score its checkpoint"


def is_checkpoint(model: str) -> bool:
    """Whether `model` is a file that torch.save wrote, a zip archive, rather than a packed file or a name."""
    try:
        with regular_file(model) as file:
            return looks_like_checkpoint(file.read(4))
    except OSError:
        return False


def held_out(dataset: str, data: Path | None, preprocess: Preprocess | None, classes: Sequence[str] | None) -> Split:
    """The images of `dataset` as the model's own preprocessing brings them to pixels, as `predict` does.

    BbgError for a model without preprocessing, or of other classes.
    """
    from bbg.data import open_data

    if preprocess is None:
        raise BbgError(UNPREPROCESSED)
    split = open_data(dataset, data, preprocess=preprocess)
    if classes is not None and list(split.classes) != list(classes):
        raise BbgError(f"the model has the classes {', '.join(classes)}; {dataset!r} has {', '.join(split.classes)}")
    return split


class Scored(NamedTuple):
    """Labelled images, and the network that scores them: `run` makes logits `[N, classes]` of uint8 pixels."""

    images: Labelled
    run: Callable[[np.ndarray], np.ndarray]
    batch: int


class ScoredMasks(NamedTuple):
    """Images with masks, and the network that scores them: `run` makes classes `[N, H, W]` of uint8 pixels."""

    images: MaskedImages
    run: Callable[[np.ndarray], np.ndarray]


class ScoredBoxes(NamedTuple):
    """Images with boxes, and the network that scores them: `run` makes boxes of uint8 pixels."""

    images: BoxSet
    run: Callable[[np.ndarray], list[Boxes]]


def scored_file(
    model: str, dataset: str | None, data: Path | None, part: str, threads: int | None, limits: Limits | None
) -> Scored | ScoredMasks | ScoredBoxes:
    """A packed file, or a network of the zoo, and the images that it is to be scored on."""
    from bbg.engine import load
    from bbg.scoring import BATCH

    engine = load(model, threads, limits)
    if engine.preprocess is None:
        raise BbgError(UNPREPROCESSED)
    if engine.head is None:
        raise BbgError(HEADLESS)
    if isinstance(engine.head, Detection):
        return ScoredBoxes(
            boxed(dataset, data, engine.preprocess, engine.labels, part), engine_boxes(engine, engine.head)
        )
    if isinstance(engine.head, Segmentation):
        head, size = engine.head, engine.preprocess.size
        images_with_masks = masked(dataset, data, engine.preprocess, engine.labels, part)

        def segment(pixels: np.ndarray) -> np.ndarray:
            (logits,) = engine.run(pixels).values()
            return head.decide(logits, size)

        return ScoredMasks(images_with_masks, segment)
    name = dataset or engine.provenance.get("dataset")
    if name is None and data is None:
        raise BbgError(f"{model!r} does not say what it was trained on; say which images with --data DIR")
    images = labelled(dataset, name, data, engine.preprocess, engine.labels, part)

    def run(pixels: np.ndarray) -> np.ndarray:
        (logits,) = engine.run(pixels).values()
        return logits

    return Scored(images, run, BATCH)


def scored_checkpoint(
    path: Path,
    factory: str | None,
    device: str | None,
    dataset: str | None,
    data: Path | None,
    part: str,
    threads: int | None,
) -> Scored | ScoredMasks | ScoredBoxes | dict[str, float]:
    """A checkpoint in torch and the images that it is to be scored on; of a task without classes, its own figures."""
    import torch

    from bbg.data import ImageSet
    from bbg.training.checkpoint import Checkpoint
    from bbg.training.device import choose_device
    from bbg.training.evaluate import EVALUATION_BATCH, logits_of

    place = choose_device(device)
    trained = Checkpoint.load(path)
    network, preprocess = trained_network(trained, factory).to(place), trained.preprocess
    if threads is not None:
        torch.set_num_threads(threads)

    def logits(pixels: np.ndarray) -> np.ndarray:
        batch = ImageSet(pixels, np.zeros(len(pixels), np.int64), tuple(trained.classes), preprocess)
        return logits_of(network, batch, preprocess).numpy()

    head = trained_task(trained, network).head
    if isinstance(head, Detection):
        return ScoredBoxes(
            boxed(dataset, data, preprocess, trained.classes, part), torch_boxes(network, head, preprocess)
        )
    if isinstance(head, Segmentation):
        segments = head

        def segment(pixels: np.ndarray) -> np.ndarray:
            return segments.decide(logits(pixels), preprocess.size)

        return ScoredMasks(masked(dataset, data, preprocess, trained.classes, part), segment)
    if not isinstance(head, Classification):
        split = held_out(dataset or trained.recipe.dataset, data, preprocess, trained.classes)
        return torch_figures(network, trained, split)
    images = labelled(dataset, trained.recipe.dataset, data, preprocess, trained.classes, part)
    return Scored(images, logits, EVALUATION_BATCH)


def labelled(
    asked: str | None,
    dataset: object,
    data: Path | None,
    preprocess: Preprocess,
    classes: Sequence[str] | None,
    part: str,
) -> Labelled:
    """The images of `part`, with the classes of the model where it names them.

    `asked`: the data set that the user names; `dataset`: that, or the one of the training. Folders of a set that bbg
    does not know by name are read as class folders.
    """
    from bbg.data import DATASETS, open_labelled

    name = asked or (str(dataset) if dataset in DATASETS or data is None else "folders")
    images = open_labelled(name, data, preprocess, part)
    if classes is not None:
        images = images.by(classes)
    if not len(images):
        raise BbgError(f"the part {part!r} of {str(data or name)!r} has no images; give another --part or --data")
    return images


def masked(
    asked: str | None, data: Path | None, preprocess: Preprocess, classes: Sequence[str] | None, part: str
) -> MaskedImages:
    """The images with masks of `part`; BbgError for other classes than those of the model, and where `asked`, the data
    set that the user names, is one without masks.
    """
    from bbg.data import DATASETS, open_masked

    if asked is not None and (asked not in DATASETS or DATASETS[asked].task != Segmentation.kind):
        raise BbgError(
            f"a network that segments is scored on images with masks, not the data set {asked!r}; leave --dataset out"
        )
    images = open_masked(data, preprocess, part)
    if classes is not None and images.classes != tuple(classes):
        raise BbgError(f"the model has the classes {', '.join(classes)}; the masks have {', '.join(images.classes)}")
    if not len(images):
        raise BbgError(f"the part {part!r} of {str(data)!r} has no images; give another --part or --data")
    return images


def boxed(
    dataset: str | None, data: Path | None, preprocess: Preprocess, classes: Sequence[str] | None, part: str
) -> BoxSet:
    """The images with boxes of `part`, in the layout of `dataset`, or in the one that they look to have."""
    from bbg.data import open_boxed

    images = open_boxed(data, preprocess, part, classes, dataset)
    if not len(images):
        raise BbgError(f"the part {part!r} of {str(data)!r} has no images; give another --part or --data")
    return images


def engine_boxes(engine: Engine, head: Detection) -> Callable[[np.ndarray], list[Boxes]]:
    """What makes boxes of uint8 pixels, by the engine."""
    from bbg.scoring.detection import OVERLAP, SURE

    return lambda pixels: head.decide(engine.run(pixels), SURE, OVERLAP)


def box_figures(images: Dataset, run: Callable[[np.ndarray], list[Boxes]]) -> dict[str, float]:
    """The mAP of the boxes that `run` makes of all images: `map`, `map_11` and `map_50_95`."""
    from bbg.data import BoxSet
    from bbg.scoring import BoxEvaluation, box_scores

    assert isinstance(images, BoxSet)
    evaluation = BoxEvaluation(images.classes)
    for score in track(box_scores(images, run), "evaluating", len(images)):
        evaluation.add(score)
    matches = evaluation.matches
    return {"map": matches.mean_area, "map_11": matches.mean_eleven, "map_50_95": evaluation.coco.mean}


def torch_boxes(network: nn.Module, head: Detection, preprocess: Preprocess) -> Callable[[np.ndarray], list[Boxes]]:
    """What makes boxes of uint8 pixels, by torch on the device of the network, in float32."""
    import torch

    from bbg.scoring.detection import OVERLAP, SURE
    from bbg.training.evaluate import full_precision

    network.eval()
    device = next(network.parameters()).device

    def run(pixels: np.ndarray) -> list[Boxes]:
        with torch.inference_mode(), full_precision():
            found = network(torch.from_numpy(preprocess.normalize(pixels)).to(device))
        return head.decide({name: value.float().cpu().numpy() for name, value in found.items()}, SURE, OVERLAP)

    return run


def trained_network(trained: Checkpoint, factory: str | None) -> nn.Module:
    """The trained network; `factory` names what makes it where it is a module of one's own."""
    from bbg.training.factory import find_factory

    return trained.network(None if factory is None else find_factory(factory))


def trained_task(trained: Checkpoint, network: nn.Module | None = None) -> Task:
    """What the network was trained for; a detection takes the priors of `network`."""
    from bbg.training.tasks import make_task

    return make_task(trained.recipe, len(trained.classes), network=network)


def torch_figures(network: nn.Module, trained: Checkpoint, split: Split) -> dict[str, float]:
    """The figures of the task over all test images, by torch on the device of the network, in float32."""
    from bbg.data.loader import Loader
    from bbg.training.evaluate import EVALUATION_BATCH, full_precision

    device = next(network.parameters()).device
    loader = Loader(split.test, EVALUATION_BATCH, preprocess=trained.preprocess, device=device)
    with full_precision():
        found = trained_task(trained).evaluate(network, loader)
    return {name: value for name, value in found.items() if name != "loss"}


def engine_figures(engine: Engine, split: Split) -> dict[str, float]:
    """The figures of the engine's head over all test images, without torch."""
    if isinstance(engine.head, Detection):
        return box_figures(split.test, engine_boxes(engine, engine.head))
    if not isinstance(engine.head, Classification):
        raise BbgError(HEADLESS)
    return engine.head.score(engine_logits(engine, split), split.test.labels)


def torch_logits(network: nn.Module, trained: Checkpoint, split: Split) -> np.ndarray:
    """Logits of the test images from torch, float32 `[N, classes]`."""
    from bbg.training.evaluate import logits_of

    return logits_of(network, split.test, trained.preprocess).numpy()


def engine_logits(engine: Engine, split: Split) -> np.ndarray:
    """Logits of the test images from the engine, float32 `[N, classes]`."""
    from bbg.data import read_batch

    batches = np.array_split(np.arange(len(split.test)), -(-len(split.test) // BATCH))
    return np.concatenate([engine(read_batch(split.test, indices)[0]) for indices in track(batches, "evaluating")])
