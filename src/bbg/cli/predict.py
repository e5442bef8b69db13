"""The verb predict. It never imports torch, and starts in about a tenth of a second."""

from __future__ import annotations

from pathlib import Path

from bbg.cli.output import STDOUT, show
from bbg.cli.parser import JSON, MODEL, argument, count, verb
from bbg.files import write_json
from bbg.zoo import resolve

DEFAULT_MODEL = "resnet20-cifar10"


@verb(
    argument("images", nargs="+", metavar="IMAGE", help="image files"),
    argument("--model", default=DEFAULT_MODEL, help=f"{MODEL}; default: %(default)s"),
    argument("--top", type=count, default=5, metavar="N", help="classes to show; default: %(default)s"),
    JSON,
)
def predict(images: list[str], model: str, top: int, json: Path | None) -> None:
    """Say what is in an image: classes with their probabilities."""
    from bbg.engine import load

    # One image on one thread: waking others would cost more time than they save.
    engine = load(resolve(model), threads=1)
    found = dict(zip(images, engine.predict(images, top), strict=True))
    report = {image: [p._asdict() for p in predictions] for image, predictions in found.items()}
    if json == STDOUT:
        show(report, json)
        return
    if json is not None:
        write_json(report, json)
    for image, predictions in found.items():
        print(image)
        for label, score in predictions:
            print(f"  {100 * score:5.1f} %  {label}")
