"""A folder of photographs through torchvision's DataLoader and another runtime, end to end; scoring_peers.py starts it.

    python -m bench.loader_process RUNTIME CORES LOADERS THREADS BATCH IMAGES PHOTOGRAPHS FOLDER NETWORK REPORT

Processes of the DataLoader, as many as LOADERS, open each file with Pillow, resize, crop and normalise it by
torchvision's transforms; FOLDER/NETWORK.json says to what. This process runs the int8 network of FOLDER on THREADS
threads, BATCH images at a time, and takes the five best classes of each. All of them stay on CORES. The seconds count
from when the network is ready to the last image: importing and compiling are not among them, starting the DataLoader
is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.runtime_process import PRECISIONS, by_onnxruntime, by_openvino

PRECISION, TOP = "int8", 5
FEWEST = 8  # images that a process of the DataLoader hands over at a time

Infer = Callable[[np.ndarray], np.ndarray]


def in_openvino(model: Path, threads: int, batch: int) -> Infer:
    """The network on float32 `[batch, 3, H, W]`."""
    import openvino as ov

    request = by_openvino(model, threads, PRECISION, batch)[0].create_infer_request()

    def infer(x: np.ndarray) -> np.ndarray:
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.infer()
        found: np.ndarray = request.get_output_tensor().data
        return found

    return infer


def in_onnxruntime(model: Path, threads: int, batch: int) -> Infer:
    """The network on float32 `[batch, 3, H, W]`."""
    session, _ = by_onnxruntime(model, threads, PRECISION, batch)

    def infer(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {"x": x})[0]
        return found

    return infer


RUNTIMES = {"OpenVINO": in_openvino, "ONNX Runtime": in_onnxruntime}


def filled(x: np.ndarray, batch: int) -> np.ndarray:
    """A last batch that is shorter gets black images."""
    return x if len(x) == batch else np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), x.dtype)])


def loader_of(files: list[Path], facts: dict[str, Any], batch: int, loaders: int) -> Any:
    """The DataLoader over `files`; tensors float32 `[N, 3, H, W]`."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.Resize(facts["resize"] or facts["size"]),
            transforms.CenterCrop(facts["size"]),
            transforms.ToTensor(),
            transforms.Normalize(facts["mean"], facts["std"]),
        ]
    )

    class Photographs(Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, number: int) -> Any:
            return change(Image.open(files[number]).convert("RGB"))

    return DataLoader(Photographs(), batch_size=max(batch, FEWEST), num_workers=loaders)


def main() -> None:
    """Run once over the photographs, and report."""
    runtime, cores, *numbers, photographs, place, network, report = sys.argv[1:]
    os.sched_setaffinity(0, set(map(int, cores.split(","))))
    loaders, threads, batch, images = map(int, numbers)
    import torch

    torch.set_num_threads(1)
    folder = Path(place)
    facts = json.loads((folder / f"{network}.json").read_text(encoding="utf-8"))
    files = sorted(Path(photographs).rglob("*.jpg"))[:images]
    infer = RUNTIMES[runtime](folder / f"{network}.{PRECISIONS[PRECISION].file}", threads, batch)
    stored = np.load(folder / f"{network}.npz")
    x = stored["x"]
    parts = [np.array(infer(filled(x[at : at + batch], batch)))[: len(x) - at] for at in range(0, len(x), batch)]
    agreement = float(np.corrcoef(np.concatenate(parts).ravel(), stored["y"].ravel())[0, 1])
    if not agreement >= PRECISIONS[PRECISION].least_correlation:
        raise RuntimeError(f"{runtime}, {PRECISION}: the output correlates with torch's by {agreement:.4f} only")
    answers: list[list[int]] = []
    loader = loader_of(files, facts, batch, loaders)  # which imports, and starts nothing yet
    began = time.perf_counter()
    for tensor in loader:
        pixels = tensor.numpy()
        for at in range(0, len(pixels), batch):
            some = pixels[at : at + batch]
            logits = torch.from_numpy(infer(filled(some, batch))[: len(some)])
            answers += logits.softmax(1).topk(TOP).indices.tolist()
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "images": len(answers), "correlation": agreement}
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
