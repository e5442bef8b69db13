"""Blood cells, pixel by pixel: a small U-Net with real weights, then at 1 bit, then packed; mIoU and pictures of each.

    python examples/blood_cells.py --bccd BCCD --out runs/cells

`BCCD` is the folder of the BCCD set (https://github.com/Shenggan/BCCD_Dataset, MIT licence): 364 photographs with a box
around each red cell, white cell and platelet. Masks are drawn from the boxes here: an ellipse in each. So they are as
good as the boxes are, and cells that have none count as background.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import bbg
from bbg import tables
from bbg.conversion.ranges import Ranges
from bbg.data import open_recipe, read_batch
from bbg.data.masks import open_masked
from bbg.heads import Segmentation
from bbg.recipe import Recipe
from bbg.scoring import MaskEvaluation, mask_scores

CLASSES = ("background", "red cell", "white cell", "platelet")
NUMBERS = {"RBC": 1, "WBC": 2, "Platelets": 3}  # small cells lie over large ones
HALVES = {"train": "trainval", "test": "test"}  # lists of BCCD
RECIPE = Recipe(
    dataset="masks", task="segmentation", size="72x96", epochs=30, batch_size=8, lr=2e-3, crop_padding=6, seed=0
)
SHOWN = 3  # pictures


class UNet(nn.Module):
    """Maps of 1/2, 1/4 and 1/8 of the sides, with the sums of the way down and the way up; logits at 1/2."""

    def __init__(self, classes: int = len(CLASSES), width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Sequential(layer(3, width, stride=2), layer(width, width))
        self.middle = nn.Sequential(nn.MaxPool2d(2), layer(width, 2 * width), layer(2 * width, 2 * width))
        self.deep = nn.Sequential(nn.MaxPool2d(2), layer(2 * width, 4 * width), layer(4 * width, 4 * width))
        self.rise = nn.Sequential(layer(4 * width, 2 * width), nn.Upsample(scale_factor=2, mode="bilinear"))
        self.join = layer(2 * width, 2 * width)
        self.leave = nn.Sequential(layer(2 * width, width), nn.Upsample(scale_factor=2, mode="bilinear"))
        self.last = layer(width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` to logits `[N, classes, H / 2, W / 2]`."""
        fine = self.enter(x)
        middle = self.middle(fine)
        middle = self.join(middle + self.rise(self.deep(middle)))
        logits: Tensor = self.head(self.last(fine + self.leave(middle)))
        return logits


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def make_masks(bccd: Path, root: Path) -> Path:
    """The images of BCCD and the masks of their boxes, as bbg reads a set of masks, in the folder `root`."""
    shutil.rmtree(root, ignore_errors=True)
    for half, listed in HALVES.items():
        for name in ("images", "masks"):
            (root / half / name).mkdir(parents=True)
        for name in (bccd / "ImageSets" / "Main" / f"{listed}.txt").read_text().split():
            image = bccd / "JPEGImages" / f"{name}.jpg"
            shutil.copy(image, root / half / "images")
            with Image.open(image) as picture:
                mask = Image.new("L", picture.size, 0)
            draw = ImageDraw.Draw(mask)
            found = ElementTree.parse(bccd / "Annotations" / f"{name}.xml").findall("object")
            for box in sorted(found, key=lambda box: NUMBERS[str(box.findtext("name"))]):
                corners = [float(box.findtext(f"bndbox/{end}") or 0) for end in ("xmin", "ymin", "xmax", "ymax")]
                draw.ellipse(corners, fill=NUMBERS[str(box.findtext("name"))])
            mask.save(root / half / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def run(bccd: Path, out: Path, epochs: int) -> list[dict[str, object]]:
    """Train, convert and score in the folder `out`; returns a row per network."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    root = make_masks(bccd, out / "cells")
    recipe = RECIPE.changed({"epochs": epochs})
    split = open_recipe(recipe, root)
    torch.manual_seed(recipe.seed)
    network, rows = UNet(), []
    example = torch.from_numpy(split.preprocess.normalize(read_batch(split.test, range(32))[0]))
    for name in ("real weights", "1 bit"):
        if name == "1 bit":
            network = bbg.binarize(network, act="rprelu", example=example[:2])
            print(network.report)
        began = time.monotonic()
        trained = bbg.fit(network, recipe, split, out=out / name.replace(" ", "-"), overwrite=True)
        found = trained.history[-1]
        row = {"network": f"{name}, torch", "mIoU": found["test_miou"], "pixels right": found["test_pixel_accuracy"]}
        rows.append({**row, "minutes of training": round((time.monotonic() - began) / 60, 1)})
    ranges = Ranges.from_dict(trained.ranges)
    file, labels = out / "cells.bbg", list(CLASSES)
    bbg.convert(network, file, example, calibration=ranges, preprocess=split.preprocess, labels=labels)
    engine, pairs = bbg.load(file, threads=1), open_masked(root, split.preprocess)
    evaluation = MaskEvaluation(CLASSES)

    def classes_of(pixels: np.ndarray) -> np.ndarray:
        (logits,) = engine.run(pixels).values()
        return Segmentation().decide(logits, split.preprocess.size)

    for score in mask_scores(pairs, classes_of):
        evaluation.add(score)
    overlap = evaluation.overlap
    rows.append({"network": "1 bit, packed", "mIoU": overlap.mean, "pixels right": overlap.accuracy})
    (out / "overlays").mkdir(exist_ok=True)
    for name in pairs.names[:: max(1, len(pairs) // SHOWN)][:SHOWN]:
        engine.segment(name).overlay(name).save(out / "overlays" / f"{Path(name).stem}.png")
    print(tables.terminal(evaluation.per_class()))
    print(tables.terminal(rows))
    print(f"packed: {file.stat().st_size:,} bytes; pictures in {out / 'overlays'}")
    return rows


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--bccd", type=Path, required=True, help="the folder of the BCCD set")
    arguments.add_argument("--out", type=Path, default=Path("runs/cells"), help="default: %(default)s")
    arguments.add_argument("--epochs", type=int, default=RECIPE.epochs, help="of each training; default: %(default)s")
    given = arguments.parse_args()
    run(given.bccd, given.out, given.epochs)
