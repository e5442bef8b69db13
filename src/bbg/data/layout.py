"""What the layouts of images with boxes share: how an object is judged, what a half takes, and how sets are opened.

A layout (`bbg.data.voc`, `bbg.data.coco`, `bbg.data.yolo`) is a function that lists the images of a half with what its
files say of each. All else is here: which objects are boxes, which classes there are, and what is told of the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bbg.average_precision import Truth
from bbg.data.boxed import Boxed, BoxSet
from bbg.data.folders import choice, held_out
from bbg.data.labelled import PARTS, some
from bbg.data.sets import Skipped, Split, Wanted
from bbg.errors import BbgError, allowed
from bbg.image import Preprocess
from bbg.log import LOGGER
from bbg.reading import TEXT, contents

NAMES = "classes.txt"  # the name of each class in a line of its own
EDGE = 0.99  # pixels that a box has at least in either direction: one, as six digits of a share of a side have it
HALVES = ("train", "test")
WORDS = {"trainval": "trainval", "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

Sides = tuple[float, float, float, float]


class Annotated(NamedTuple):
    """An object as its file has it: its class, and its left, top, right and bottom in pixels of its image.

    `first`: what the first pixel of an image is called; where that is 1, the sides are the first and the last pixel,
    and else the edges of pixels. `problem`: why it is no box, empty where it is one.
    """

    name: str
    sides: Sides = (0, 0, 0, 0)
    difficult: bool = False
    problem: str = ""
    first: int = 0


class Item(NamedTuple):
    """An image, its size (H, W), and what its annotation has."""

    image: Path
    size: tuple[int, int]
    objects: list[Annotated]


class LeftOut:
    """What is left out of a half, each file with its reason; where it is `strict`, the first is a BbgError."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.told: list[Skipped] = []

    def add(self, path: Path | str, reason: str) -> None:
        """Leave `path` out."""
        if self.strict:
            raise BbgError(f"{path}: {reason}")
        self.told.append(Skipped(str(path), reason))


class Half(NamedTuple):
    """The images of a half; `names`: of the classes, in their order, None where the files do not state them."""

    items: list[Item]
    names: tuple[str, ...] | None


class Layout(NamedTuple):
    """How a set of images with boxes lies in a folder.

    `read` lists a half ("train", "test") of a folder. `fits` says whether a folder has the layout, at a glance.
    `names_in`: where the classes are named.
    """

    read: Callable[[Path, str, LeftOut], Half]
    fits: Callable[[Path], bool]
    names_in: str = NAMES


def boxed_split(layout: Layout, root: Path, wanted: Wanted) -> Split:
    """Both halves of the set in `root`; whole pictures are resized, unless `wanted` says otherwise.

    The classes are those that the files state, or else all that occur in the images of both halves, sorted. The size is
    as in `bbg.data.folders.choice`. An image without boxes is an image. What is left out is told (`Dataset.skipped`):
    images and annotations that are damaged, hostile or missing, and boxes outside of their image, inverted, without an
    area or of an unknown class. A box that lies partly outside is cut. With `wanted.strict` the first of these is a
    BbgError. So are a set without classes, and a half without images.
    """
    left = {half: LeftOut(wanted.strict) for half in HALVES}
    found = {half: layout.read(root, half, left[half]) for half in HALVES}
    names = _names(found.values())
    if not names:
        raise BbgError(f"no image of {str(root)!r} has a box, so it has no classes; name them in {layout.names_in}")
    own = choice([item.image for item in found["train"].items], wanted)
    own = Preprocess(own.size, None, own.mode, own.mean, own.std, own.decode)
    preprocess = wanted.over(own)
    train, test = (_set(found[half].items, names, preprocess, left[half]) for half in HALVES)
    for half, data in (("training", train), ("testing", test)):
        if not len(data):
            why = f" ({data.skipped[0].path}: {data.skipped[0].reason})" if data.skipped else ""
            raise BbgError(f"{str(root)!r} has no images with annotations for {half}{why}; add some to its lists")
    absent = [name for name, count in zip(names, train.counts(), strict=True) if not count]
    if absent:
        LOGGER.warning("no training image has a box of %s: it will not be learned", some(absent))
    return Split(train, test)


def boxed_images(
    layout: Layout, root: Path, preprocess: Preprocess, part: str = "test", classes: Sequence[str] | None = None
) -> BoxSet:
    """The images of `part` (test, train, all) with their boxes, for evaluation by `preprocess`.

    `classes`: of the network, whose numbers the boxes get; None: as `boxed_split` finds them. BbgError for a missing
    folder and for boxes of a class that the network does not have.
    """
    if part not in PARTS:
        raise BbgError(f"part is {part!r}, {allowed(part, PARTS)}")
    left = LeftOut()
    found = [layout.read(root, half, left) for half in (("test", "train") if part == "all" else (part,))]
    names, items = _names(found), [item for half in found for item in half.items]
    if classes is not None:
        seen = sorted({one.name for item in items for one in item.objects if not one.problem} & set(names))
        if odd := [name for name in seen if name not in classes]:
            raise BbgError(
                f"the boxes have the class {some(odd)}, the network has {some(classes)}; give boxes of these"
            )
    return _set(items, tuple(names if classes is None else classes), preprocess, left)


def _names(halves: Collection[Half]) -> tuple[str, ...]:
    """The classes of a set."""
    stated = dict.fromkeys(name for half in halves for name in half.names or ())
    if stated or any(half.names is not None for half in halves):
        return tuple(stated)
    return tuple(sorted({one.name for half in halves for item in half.items for one in item.objects if one.name}))


def _set(items: Sequence[Item], names: tuple[str, ...], preprocess: Preprocess, left: LeftOut) -> BoxSet:
    number = {name: i for i, name in enumerate(names)}
    found = []
    for path, size, objects in items:
        rows, problems = [], Counter[str]()
        for one in objects:
            sides, problem = judged(one, size, number)
            if problem:
                problems[problem] += 1
            else:
                rows.append((number[one.name], *sides, one.difficult))
        if problems:
            told = (f"{n} box{'es' if n > 1 else ''} left out: {why}" for why, n in problems.items())
            left.add(path, "; ".join(told))
        values = np.array(rows, np.float64).reshape(-1, 6)
        truth = Truth(values[:, 1:5], values[:, 0].astype(np.int64), values[:, 5].astype(bool))
        found.append(Boxed(path, size, truth))
    return BoxSet(found, names, preprocess, tuple(left.told))


def judged(one: Annotated, size: tuple[int, int], known: Collection[str]) -> tuple[Sides, str]:
    """The sides of an object at the edges of pixels, cut at those of its image of `size` (H, W), and why it is no box.

    Where the first pixel is 1, the last one belongs to the box, so `left` becomes `left - 1` and `right` stays.
    """
    none: Sides = (0, 0, 0, 0)
    if one.problem:
        return none, one.problem
    if not one.name:
        return none, "has no class"
    if not np.isfinite(one.sides).all():
        return none, "has a side that is no number"
    if one.name not in known:
        return none, f"the class {one.name!r:.40} is none of the list"
    (left, top, right, bottom), (high, wide) = one.sides, size
    if right < left or bottom < top:
        return none, "inverted"
    if right == left or bottom == top:
        return none, "without an area"
    left, top = left - one.first, top - one.first
    if right - left < EDGE or bottom - top < EDGE:
        return none, "smaller than a pixel"
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(wide)), min(bottom, float(high))
    if right - left < EDGE or bottom - top < EDGE:
        return none, "outside of the image"
    return (left, top, right, bottom), ""


def chosen(parts: Collection[str], half: str) -> str | None:
    """Which of `parts` (trainval, train, val, test) a half takes, None for none of them.

    With a part `test`, training takes `trainval` (or `train`), and testing `test`; without it `train` and `val`. Where
    there is nothing to test on, both take the part for training, which is then shared out (`shared_out`).
    """
    training = ("trainval", "train") if "test" in parts else ("train", "trainval")
    order = training if half == "train" else ("test", "val", *training)
    return next((name for name in order if name in parts), None)


def is_shared(parts: Collection[str]) -> bool:
    """Whether the training images of these parts are for testing too."""
    return not {"test", "val"} & set(parts)


def shared_out(root: Path, images: Sequence[Path], half: str) -> list[Path]:
    """The images of a half where the set has no parts: a fifth is for testing, by the hash of their names."""
    kept = held_out(root, {"": list(images)}) if images else set()
    return [path for path in images if (path in kept) == (half == "test")]


def class_names(path: Path) -> tuple[str, ...] | None:
    """The classes that the file `path` names, None where there is no such file; BbgError for a list that is none."""
    if not path.is_file():
        return None
    return checked_names(path, [line.strip() for line in text(path).splitlines() if line.strip()])


def checked_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The classes that `path` names; BbgError where there are none, or one comes twice."""
    if not names or len(set(names)) < len(names):
        came = "no classes" if not names else "a name twice"
        raise BbgError(f"{str(path)!r} has {came}; give different names, one in a line, and none for the background")
    return tuple(names)


def text(path: Path, most: int = TEXT) -> str:
    """What a file says; BbgError where it is no text in UTF-8 of at most `most` bytes."""
    try:
        return contents(path, most).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BbgError(f"cannot read {str(path)!r} ({why}); give a text in UTF-8") from error
