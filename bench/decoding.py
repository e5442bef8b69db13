"""Images per second from a JPEG to the network's pixels, and what decoding at a scale does to pixels and answers.

    python -m bench.decoding --photos DIR --cifar DIR [--rounds 5] [--images 150]

Photos are those of a folder, as they are and enlarged to 12 million pixels. One thread; processor time, best of the
rounds, the files in memory. The other bindings of libjpeg-turbo (simplejpeg, OpenCV, torchvision) take part where they
are installed. Answers are those of the zoo's ResNet-20 on the test images of CIFAR-10 as class folders, enlarged to
larger JPEGs, so that all of them are brought back to 32 x 32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import bbg
from bbg.image import Preprocess, decoder, load_image
from bench.markdown import plain, table
from bench.record import Result, parser_of, run

TITLE = "Decoding"
LARGE = (4000, 3000)
TARGETS = {32: None, 224: 256}  # sizes and the short side before the crop
SPARES = (2, 3, 4)  # times the resized sides that a scale keeps; the package's is bbg.image.decoder.SPARE
SIDES = (128, 256, 300, 320, 384, 512)  # of the enlarged images of CIFAR
CLASS = 800  # test images per class


def enlarged(file: Path, size: tuple[int, int]) -> bytes:
    """The picture in `file` at another size, as JPEG of quality 90."""
    buffer = BytesIO()
    Image.open(file).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """Pixels by Pillow."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def bindings() -> dict[str, Callable[[bytes], np.ndarray]]:
    """What decodes a JPEG here, by name."""
    found: dict[str, Callable[[bytes], np.ndarray]] = {"bbg": load_image, "pillow": pillow}
    try:
        import simplejpeg

        found["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
    except ImportError:
        pass
    try:
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    except ImportError:
        pass
    try:
        from torchvision.io import decode_jpeg

        found["torchvision"] = lambda data: (
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()
        )
    except ImportError:
        pass
    return found


def speeds(calls: dict[str, Callable[[bytes], Any]], files: list[bytes], rounds: int) -> dict[str, float]:
    """Images per second of one core; the calls take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            for data in files:
                call(data)
            best[name] = min(best[name], time.process_time() - began)
    return {name: len(files) / seconds for name, seconds in best.items()}


@contextmanager
def spare(times: int) -> Iterator[None]:
    """Decode at scales that keep `times` the resized sides."""
    before, decoder.SPARE = decoder.SPARE, times
    try:
        yield
    finally:
        decoder.SPARE = before


def pixels_of(call: Callable[[bytes], np.ndarray], files: list[bytes]) -> np.ndarray:
    """What `call` makes of all files."""
    return np.stack([call(data) for data in files]).astype(int)


def of_photos(sets: dict[str, list[bytes]], rounds: int) -> Result:
    """Rows of the bindings, and of `Preprocess` by target and rule."""
    result: Result = {"bindings": [], "preprocess": []}
    for name, files in sets.items():
        calls = bindings()
        decoded = speeds(calls, files, rounds)
        resized = speeds({binding: resizing(binding, call) for binding, call in calls.items()}, files, rounds)
        for binding, call in calls.items():
            same = sum(np.array_equal(call(data), pillow(data)) for data in files) / len(files)
            row = {"photos": name, "binding": binding, "same_pixels": same}
            row |= {"images_per_s": decoded[binding], "resized_per_s": resized[binding]}
            result["bindings"].append(row)
        for size, resize in TARGETS.items():
            whole = Preprocess(size, resize).apply
            pixels = pixels_of(whole, files)
            applied = {"whole": whole} | {f"scaled, {n} times": scaled(n, size, resize) for n in SPARES}
            for decode, speed in speeds(applied, files, rounds).items():
                row = {"photos": name, "target": size, "decode": decode, "images_per_s": speed}
                if decode != "whole":
                    far = np.abs(pixels_of(applied[decode], files) - pixels)
                    row |= {"mean_difference": far.mean(), "largest": int(far.max())}
                result["preprocess"].append(row)
    return result


def resizing(binding: str, call: Callable[[bytes], np.ndarray]) -> Callable[[bytes], np.ndarray]:
    """From a file to 224 x 224: by the package alone, or with pixels that `call` decodes."""
    apply = Preprocess(224, TARGETS[224]).apply
    return apply if binding == "bbg" else lambda data: apply(call(data))


def scaled(times: int, size: int, resize: int | None) -> Callable[[bytes], np.ndarray]:
    """From a file to the network's pixels, decoded at a scale that keeps `times` the resized sides."""
    apply = Preprocess(size, resize, decode="scaled").apply

    def call(data: bytes) -> np.ndarray:
        with spare(times):
            return apply(data)

    return call


def answers(cifar: Path) -> Result:
    """Rows of accuracy by side of the enlarged images, and how many answers a scale changes."""
    engine = bbg.load("resnet20-cifar10", threads=1)
    assert engine.preprocess is not None
    assert engine.labels is not None
    files = [(f, i) for i, name in enumerate(engine.labels) for f in sorted((cifar / "test" / name).iterdir())[:CLASS]]
    labels, rows = np.array([label for _, label in files]), []
    for side in SIDES:
        jpegs = [enlarged(file, (side, side)) for file, _ in files]
        row: dict[str, Any] = {"side": side}
        fields = {**vars(engine.preprocess), "decode": "whole"}
        before = engine(pixels_of(Preprocess(**fields).apply, jpegs).astype(np.uint8)).argmax(1)
        row["whole"] = float((before == labels).mean())
        for times in SPARES:
            with spare(times):
                at_scale = Preprocess(**{**fields, "decode": "scaled"})
                after = engine(pixels_of(at_scale.apply, jpegs).astype(np.uint8)).argmax(1)
            row[f"scaled_{times}"] = float((after == labels).mean())
            row[f"changed_{times}"] = float((after != before).mean())
        rows.append(row)
        print(row, flush=True)
    return {"answers": rows, "test_images": len(files)}


def rows(arguments: argparse.Namespace) -> Result:
    """All tables."""
    torch.set_num_threads(1)
    photos = sorted(arguments.photos.rglob("*.jpg"))[: arguments.images]
    if not photos:
        raise RuntimeError("no folder of photographs was given")
    sets = {
        "as they are": [file.read_bytes() for file in photos],
        "12 million pixels": [enlarged(file, LARGE) for file in photos[:8]],
    }
    result = of_photos(sets, arguments.rounds) | (answers(arguments.cifar) if arguments.cifar else {})
    versions = {}
    for name in ("simplejpeg", "opencv-python-headless", "torchvision"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    long = int(np.median([max(Image.open(file).size) for file in photos]))
    return {**result, "photos": len(photos), "long_side": long, "spare": decoder.SPARE, "versions": versions}


def percent(key: str, head: str) -> tuple[str, Callable[[dict[str, Any]], str]]:
    """A column of a share."""
    return head, lambda r: f"{100 * r[key]:.1f}"


def speed_column(key: str = "images_per_s", head: str = "images/s") -> tuple[str, Callable[[dict[str, Any]], str]]:
    """Images per second."""
    return head, lambda r: f"{r[key]:,.{0 if r[key] >= 100 else 1}f}"


def render(result: Result) -> str:
    """Three tables, and what was decided by them."""
    text = (
        f"{result['photos']} photographs, {result['long_side']} pixels on the long side, and eight of them enlarged to "
        "12 million pixels. One core. All bindings of libjpeg-turbo give the same bits, Pillow among them, whose "
        "resizing makes the pixels of the network. What another binding decodes faster is lost again where its pixels "
        "go to Pillow. So the decoder is Pillow alone, for files and pictures of any kind. bbg keeps the picture in "
        "Pillow until it is resized, and takes whole pictures out of it in strips."
    )
    one = table(
        result["bindings"], plain("photos"), plain("binding"), speed_column(),
        speed_column("resized_per_s", "resized to 224, images/s"), percent("same_pixels", "same pixels, %"),
    )  # fmt: skip
    scales = (
        f'From the file to the pixels of the network. `decode = "scaled"` keeps at least {result["spare"]} times the '
        "resized sides. The difference is that to whole decoding, in levels of 255."
    )

    def far(key: str, form: str) -> Callable[[dict[str, Any]], str]:
        return lambda r: format(r[key], form) if key in r else ""

    two = table(
        result["preprocess"],
        plain("photos"),
        plain("target"),
        plain("decode"),
        speed_column(),
        ("mean difference", far("mean_difference", ".2f")),
        ("largest", far("largest", "d")),
    )
    parts = [text, one, scales, two]
    if "answers" in result:
        parts.append(
            f"The zoo's ResNet-20 on {result['test_images']:,} test images of CIFAR-10 (JPEG), enlarged to JPEGs of "
            "this side and brought back to 32. It was trained on whole pixels. Accuracy in percent, and the share of "
            "answers that differ. A tenth of a level changes one answer in nine of this binary network: training, "
            "evaluation and prediction must decode alike."
        )
        columns = [(f"{n} times", partial(_share, f"scaled_{n}")) for n in SPARES]
        columns += [(f"changed, {n} times", partial(_share, f"changed_{n}")) for n in SPARES]
        parts.append(table(result["answers"], plain("side"), percent("whole", "whole"), *columns))
    return "\n\n".join(parts)


def _share(key: str, row: dict[str, Any]) -> str:
    return f"{100 * row[key]:.1f}"


if __name__ == "__main__":
    parser = parser_of("decoding", __doc__, rounds=5)
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="folder of JPEGs; default: %(default)s")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as class folders, for the answers")
    parser.add_argument("--images", type=int, default=150, help="photos at most; default: %(default)s")
    run(parser, rows, ("numpy", "pillow"))
