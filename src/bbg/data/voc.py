"""Pascal VOC: images with boxes in the layout of the official archives, and sets of one's own in the same layout.

    DIR/Annotations/NAME.xml  DIR/JPEGImages/NAME.jpg  DIR/ImageSets/Main/{train,val,trainval,test}.txt

`root` is DIR, or has one or several of it inside (`VOCdevkit/VOC2007`, `VOCdevkit/VOC2012`), which are joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bbg.average_precision import Truth
from bbg.data.annotation import Annotated, read_annotation
from bbg.data.boxed import Boxed, BoxSet
from bbg.data.folders import choice, held_out
from bbg.data.labelled import PARTS, some
from bbg.data.sets import Entry, Skipped, Split, Wanted
from bbg.errors import BbgError, allowed
from bbg.image import Preprocess, image_size, reason_of
from bbg.log import LOGGER
from bbg.reading import TEXT, contents
from bbg.sources import SUFFIXES

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", Path("ImageSets", "Main")
NAMES = "classes.txt"  # in `root`: the name of each class in a line of its own
EDGE = 1.0  # pixels that a box has at least in either direction


def voc(root: Path, wanted: Wanted) -> Split:
    """The images of the lists of `root`, with their boxes; whole pictures are resized, unless `wanted` says otherwise.

    Where there is a list `test`, the images for training are those of `trainval` (or `train`), and those for testing of
    `test`. Without it they are those of `train` and `val`. Where there are no lists, a fifth of the annotated images is
    for testing. The classes are the lines of `root/classes.txt`, or else all that occur in the images of both halves,
    sorted. The size is as in `bbg.data.folders.choice`.

    An image without boxes is an image. What is left out is told (`Dataset.skipped`): a listed name without its image or
    its annotation, an annotation that is damaged, hostile or none, and boxes outside of their image, inverted, without
    an area or of a class that is none of the list. A box that lies partly outside is cut. With `wanted.strict` the
    first of these is a BbgError. So are a missing folder, and a half without images.
    """
    found = {half: _items(root, half, wanted.strict) for half in ("train", "test")}
    names = class_names(root)
    if names is None:
        names = tuple(sorted({one.name for items, _ in found.values() for _, _, boxes in items for one in boxes}))
        if not names:
            raise BbgError(f"no image of {str(root)!r} has a box, so it has no classes; name them in {NAMES!r}")
    paths = [path for path, _, _ in found["train"][0]]
    own = choice(paths, wanted)
    own = Preprocess(own.size, None, own.mode, own.mean, own.std, own.decode)
    preprocess = wanted.over(own)
    halves = [_set(*found[half], names, preprocess, wanted.strict) for half in ("train", "test")]
    for half, data in zip(("training", "testing"), halves, strict=True):
        if not len(data):
            why = f" ({data.skipped[0].path}: {data.skipped[0].reason})" if data.skipped else ""
            raise BbgError(f"{str(root)!r} has no images with annotations for {half}{why}; add some to its lists")
    absent = [name for name, count in zip(names, halves[0].counts(), strict=True) if not count]
    if absent:
        LOGGER.warning("no training image has a box of %s: it will not be learned", some(absent))
    return Split(*halves)


VOC = Entry(voc, title="Pascal VOC", task="detection")


def open_boxed(
    root: Path | None, preprocess: Preprocess, part: str = "test", classes: Sequence[str] | None = None
) -> BoxSet:
    """The images of `part` (test, train, all) with their boxes, for evaluation by `preprocess`.

    `classes`: of the network, whose numbers the boxes get; None: as `voc` finds them. BbgError for a missing folder and
    for boxes of a class that the network does not have.
    """
    if part not in PARTS:
        raise BbgError(f"part is {part!r}, {allowed(part, PARTS)}")
    if root is None or not root.is_dir():
        raise BbgError("images with boxes are read from a folder; say which with --data DIR")
    halves = ("test", "train") if part == "all" else (part,)
    parts = [_items(root, half, False) for half in halves]
    items, skipped = [item for found, _ in parts for item in found], [one for _, more in parts for one in more]
    seen = sorted({one.name for _, _, boxes in items for one in boxes})
    names = tuple(classes) if classes is not None else class_names(root) or tuple(seen)
    if class_names(root) is None and (odd := [name for name in seen if name not in names]):
        raise BbgError(f"the boxes have the class {some(odd)}, the network has {some(names)}; give boxes of these")
    return _set(items, skipped, names, preprocess, False)


def class_names(root: Path) -> tuple[str, ...] | None:
    """The classes that `root/classes.txt` names, None where there is no such file; BbgError for a list that is none."""
    path = root / NAMES
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        came = "no classes" if not names else "a name twice"
        raise BbgError(f"{str(path)!r} has {came}; give different names, one in a line, and none for the background")
    return names


Item = tuple[Path, tuple[int, int], list[Annotated]]  # an image, its size (H, W), and what its annotation has


def _homes(root: Path) -> list[Path]:
    """The folders that hold a set each."""
    places = [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
    homes = [place for place in places if (place / ANNOTATIONS).is_dir() and (place / IMAGES).is_dir()]
    if not homes:
        raise BbgError(f"no folders {ANNOTATIONS!r} and {IMAGES!r} in {str(root)!r}; give the folder that has them")
    return homes


def _items(root: Path, half: str, strict: bool) -> tuple[list[Item], list[Skipped]]:
    items: list[Item] = []
    skipped: list[Skipped] = []
    for home in _homes(root):
        images = {path.stem: path for path in sorted((home / IMAGES).iterdir()) if path.suffix.lower() in SUFFIXES}
        for name in _listed(home, half, images):
            annotation = home / ANNOTATIONS / f"{name}.xml"
            try:
                if name not in images:
                    raise BbgError(f"is listed, and no image {name!r:.60} lies in {IMAGES}")
                if not annotation.is_file():
                    raise BbgError(f"has no annotation in {ANNOTATIONS}")
                items.append((images[name], image_size(images[name]), read_annotation(annotation)))
            except BbgError as error:
                path = str(annotation if annotation.is_file() else images.get(name, home / IMAGES / name))
                reason = reason_of(str(images.get(name, "")), str(error))
                if strict:
                    raise BbgError(f"{path}: {reason}") from error
                skipped.append(Skipped(path, reason))
    return items, skipped


def _listed(home: Path, half: str, images: dict[str, Path]) -> list[str]:
    """The names of the images of a half, each once."""
    lists = {path.stem: path for path in (home / LISTS).glob("*.txt")} if (home / LISTS).is_dir() else {}
    if not {"train", "trainval", "val", "test"} & set(lists):
        annotated = {path.stem for path in (home / ANNOTATIONS).glob("*.xml")}
        kept = {path.stem for path in held_out(home, {IMAGES: [images[n] for n in sorted(annotated & set(images))]})}
        return sorted(kept if half == "test" else annotated - kept)
    choices = {"train": ("trainval", "train") if "test" in lists else ("train",), "test": ("test", "val")}[half]
    chosen = next((lists[name] for name in choices if name in lists), None)
    if chosen is None:
        return []
    return list(dict.fromkeys(line.split()[0] for line in _text(chosen).splitlines() if line.strip()))


def _set(
    items: Sequence[Item], skipped: Sequence[Skipped], names: tuple[str, ...], preprocess: Preprocess, strict: bool
) -> BoxSet:
    number = {name: i for i, name in enumerate(names)}
    found, told = [], list(skipped)
    for path, size, boxes in items:
        rows, problems = [], Counter[str]()
        for one in boxes:
            sides, problem = placed(one, size, number)
            if problem:
                problems[problem] += 1
            else:
                rows.append((number[one.name], *sides, one.difficult))
        if problems:
            reason = "; ".join(
                f"{count} box{'es' if count > 1 else ''} left out: {why}" for why, count in problems.items()
            )
            if strict:
                raise BbgError(f"{path}: {reason}")
            told.append(Skipped(str(path), reason))
        values = np.array(rows, np.float64).reshape(-1, 6)
        truth = Truth(values[:, 1:5], values[:, 0].astype(np.int64), values[:, 5].astype(bool))
        found.append(Boxed(path, size, truth))
    return BoxSet(found, names, preprocess, tuple(told))


def placed(one: Annotated, size: tuple[int, int], known: dict[str, int]) -> tuple[tuple[float, ...], str]:
    """The sides of an object at the edges of pixels, cut at those of its image of `size` (H, W), and why it is no box.

    The first pixel of VOC is 1 and the last one belongs to the box, so `xmin` becomes `xmin - 1`.
    """
    if one.problem:
        return (), one.problem
    if one.name not in known:
        return (), f"the class {one.name!r:.40} is none of the list"
    (left, top, right, bottom), (high, wide) = one.sides, size
    if right < left or bottom < top:
        return (), "inverted"
    if right == left or bottom == top:
        return (), "without an area"
    left, top = left - 1, top - 1
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(wide)), min(bottom, float(high))
    if right - left < EDGE or bottom - top < EDGE:
        return (), "outside of the image"
    return (left, top, right, bottom), ""


def _text(path: Path) -> str:
    try:
        return contents(path, TEXT).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BbgError(f"cannot read {str(path)!r} ({error}); it is a text in UTF-8") from error
