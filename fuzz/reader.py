"""The reader of packed files under atheris: damaged files, led by what they reach in the Python code of bbg.

    fuzz/run.sh 10 reader

A file that reads well becomes an engine and answers an image. BbgError is the only error that may come. Files are
damaged as tests/support/fuzz_file.py does it, which leaves JSON, container and checksum sound more often than not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["bbg"]):
    from bbg.engine import Engine
    from bbg.errors import BbgError
    from bbg.graph.file import decode
    from bbg.limits import Limits

from support.fuzz_file import damage, originals

LIMITS = Limits(memory=64 * 2**20, operations=2 * 10**7)


def one(data: bytes) -> None:
    try:
        engine = Engine(decode(data), 1, LIMITS)
        kind = np.uint8 if engine.preprocess else np.float32
        channels, height, width = engine.input_shape
        shape = (1, height, width, channels) if kind is np.uint8 else (1, channels, height, width)
        engine.run(np.ones(shape, kind))
    except BbgError as error:
        str(error).encode()


def injured(data: bytes, most: int, seed: int) -> bytes:
    try:
        return damage(data, np.random.default_rng(seed))[:most]
    except Exception:  # no packed file any more, which the damage expects
        return atheris.Mutate(data, most)


if __name__ == "__main__":
    corpus = Path(sys.argv[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(originals()):
        (corpus / f"sound-{number:02}").write_bytes(file)
    atheris.Setup(sys.argv, one, custom_mutator=injured)
    atheris.Fuzz()
