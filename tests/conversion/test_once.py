"""Conversion does nothing twice: how often torch runs a layer, and how many engines are built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import bbg
from bbg.conversion import oracle, verify
from bbg.conversion.oracle import TorchOp, run_where_different
from bbg.conversion.views import TracedTensor
from bbg.layers import BinaryConv2d

torch.set_num_threads(1)  # small maps
IMAGES = 32
LOWERING = 6  # two images each through the network, the traced network, and the functions beside the ops
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
PREPROCESS = bbg.Preprocess.of("cifar10")
EXAMPLE = torch.from_numpy(PREPROCESS.normalize(PIXELS))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[bbg.Engine]:
    """The engines that conversion builds."""
    built: list[bbg.Engine] = []

    class Counted(bbg.Engine):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            built.append(self)

    monkeypatch.setattr(verify, "Engine", Counted)
    return built


@contextmanager
def images_per_layer() -> Iterator[Counter[tuple[int, ...]]]:
    """How many images torch runs through the binary convolutions, each known by the address of its weight's bits."""
    counts: Counter[tuple[int, ...]] = Counter()

    forward = BinaryConv2d._forward

    def counted(module: BinaryConv2d, x: torch.Tensor) -> torch.Tensor:
        counts[id(module)] += len(x)  # type: ignore[index]
        return forward(module, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BinaryConv2d, "_forward", counted)
        yield counts


def test_torch_runs_each_layer_once_and_two_engines_are_built(tmp_path: Path, engines: list[bbg.Engine]) -> None:
    """Once freely; on the engine's inputs only those images that differ, which is at most as many again."""
    torch.manual_seed(0)
    model = bbg.create("resnet20", num_classes=10)
    with images_per_layer() as counts:
        report = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    assert report.edges is None
    assert len(counts) == 18
    assert max(counts.values()) <= LOWERING + IMAGES + report.agreement.diverged <= 70
    assert len(engines) == 2


def test_edges_in_8_bits_need_one_run_more_and_no_engine(tmp_path: Path, engines: list[bbg.Engine]) -> None:
    """The ranges of the bytes and the outputs to compare with come from one run with float32 edges."""
    torch.manual_seed(0)
    model = bbg.create("resnet20", num_classes=10)
    with images_per_layer() as counts:
        report = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE, preprocess=PREPROCESS)
    assert report.edges is not None
    assert max(counts.values()) <= LOWERING + 2 * IMAGES + report.agreement.diverged
    assert len(engines) == 2


@pytest.mark.parametrize("different", [[], [2], [0, 3], [0, 1, 2, 3]])
def test_only_different_images_are_computed(different: list[int]) -> None:
    seen: list[int] = []

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x + 10 * y

    known = [torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)]
    op = TorchOp(function, tuple(TracedTensor(name, x) for name, x in zip("ab", known, strict=True)), (2, 3, 3))
    result = op(*known)
    inputs = [x.clone() for x in known]
    for i, image in enumerate(different):
        inputs[i % 2][image, 1, 2, 0] += 1
    mask = torch.tensor([i in different for i in range(4)])
    seen.clear()
    assert torch.equal(run_where_different(op, inputs, mask, result), op(*inputs))
    assert seen == [*[len(different)] * bool(different), 4]


def test_a_memory_bound_cuts_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is the same for one batch of 32 images and for 32 of one."""
    torch.manual_seed(0)
    model = bbg.create("resnet8", num_classes=10, width=4)
    whole = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE, preprocess=PREPROCESS)
    monkeypatch.setattr(verify, "BATCH_NUMBERS", 1)
    sizes = []
    run = oracle.run_free
    monkeypatch.setattr(verify, "run_free", lambda *a: (sizes.append(len(a[1]["input"])), run(*a))[1])
    cut = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE, preprocess=PREPROCESS)
    assert sizes == [1] * IMAGES
    assert (cut.after, cut.agreement.images) == (whole.after, whole.agreement.images)
    assert cut.agreement.top1 == whole.agreement.top1
    assert cut.agreement.largest == pytest.approx(whole.agreement.largest, abs=1e-4)
