"""Pascal VOC: images with boxes in the layout of the official archives, and sets of one's own in the same layout.

    DIR/Annotations/NAME.xml  DIR/JPEGImages/NAME.jpg  DIR/ImageSets/Main/{train,val,trainval,test}.txt

`root` is DIR, or has one or several of it inside (`VOCdevkit/VOC2007`, `VOCdevkit/VOC2012`), which are joined.
"""

from __future__ import annotations

from pathlib import Path

from bbg.data.annotation import read_annotation
from bbg.data.layout import (
    NAMES,
    Half,
    Item,
    Layout,
    LeftOut,
    boxed_split,
    chosen,
    class_names,
    is_shared,
    shared_out,
    text,
)
from bbg.data.sets import Entry, Split, Wanted
from bbg.errors import BbgError
from bbg.image import image_size, reason_of
from bbg.sources import SUFFIXES

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", Path("ImageSets", "Main")


def voc(root: Path, wanted: Wanted) -> Split:
    """The images of the lists of `root`, with their boxes, as `bbg.data.layout.boxed_split` opens them.

    Where there is a list `test`, the images for training are those of `trainval` (or `train`), and those for testing of
    `test`. Without it they are those of `train` and `val`. Where there is neither, or no list, a fifth of the images is
    for testing. The classes are the lines of `root/classes.txt`, or else all that occur.

    Left out and told are also a listed name without its image or its annotation, and an annotation that is damaged,
    hostile or none. BbgError for a missing folder.
    """
    return boxed_split(LAYOUT, root, wanted)


def _homes(root: Path) -> list[Path]:
    """The folders that hold a set each."""
    places = [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
    return [place for place in places if (place / ANNOTATIONS).is_dir() and (place / IMAGES).is_dir()]


def _read(root: Path, half: str, left: LeftOut) -> Half:
    homes, items = _homes(root), []
    if not homes:
        raise BbgError(f"no folders {ANNOTATIONS!r} and {IMAGES!r} in {str(root)!r}; give the folder that has them")
    for home in homes:
        images = {path.stem: path for path in sorted((home / IMAGES).iterdir()) if path.suffix.lower() in SUFFIXES}
        for name in _listed(home, half, images):
            annotation = home / ANNOTATIONS / f"{name}.xml"
            try:
                if name not in images:
                    raise BbgError(f"is listed, and no image {name!r:.60} lies in {IMAGES}")
                if not annotation.is_file():
                    raise BbgError(f"has no annotation in {ANNOTATIONS}")
                items.append(Item(images[name], image_size(images[name]), read_annotation(annotation)))
            except BbgError as error:
                path = annotation if annotation.is_file() else images.get(name, home / IMAGES / name)
                left.add(path, reason_of(str(images.get(name, "")), str(error)))
    return Half(items, class_names(root / NAMES))


def _listed(home: Path, half: str, images: dict[str, Path]) -> list[str]:
    """The names of the images of a half, each once."""
    lists = {path.stem: path for path in (home / LISTS).glob("*.txt")} if (home / LISTS).is_dir() else {}
    parts = {"train", "trainval", "val", "test"} & set(lists)
    if parts:
        name = chosen(parts, half)
        lines = [] if name is None else text(lists[name]).splitlines()
        names = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    else:
        names = sorted(path.stem for path in (home / ANNOTATIONS).glob("*.xml"))
    if not is_shared(parts):
        return names
    tests = {path.stem for path in shared_out(home, [images[name] for name in names if name in images], "test")}
    return [name for name in names if (name in tests) == (half == "test")]


LAYOUT = Layout(_read, lambda root: bool(_homes(root)), repr(NAMES))
VOC = Entry(voc, title="Pascal VOC", task="detection", layout=LAYOUT)
