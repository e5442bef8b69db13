"""No kernel falls below half of its share of the roofline loop, measured in the same process a moment before.

A share is a ratio, so another machine or a slow moment moves both sides, and the best of many tries stands, so a busy
core does not trip it either. Every block of filters and pixels that a kernel set compiles has a case: a compiler that
spills the sums of one makes it three times slower and leaves all others alone. speed.json holds the shares, with
machine and date; `python -m bench.kernel_shares` measures them anew.
"""

from __future__ import annotations

import json
import platform
import time

import pytest

from bbg import _native
from bbg.engine import kernel_sets
from bench.kernel_shares import LANES, SHARES, Block, Share, block_share, blocks, layer_share, layers, text
from cases.convolutions import Layer

PATIENCE, LEAST_TRIES = 5.0, 20  # seconds and tries until a kernel that stays slow has failed

RECORDED = json.loads(SHARES.read_text(encoding="utf-8"))
SUPPORTED = [s.name for s in kernel_sets() if s.supported]
MEASURED = [s for s in SUPPORTED if platform.machine() == "x86_64"]
BLOCKS = [pair for kernel_set in MEASURED for pair in blocks(RECORDED, kernel_set)]
LAYERS = [(kernel_set, *pair) for kernel_set in MEASURED for pair in layers(RECORDED, kernel_set)]


def reach(share: Share, least: float) -> None:
    """Fail unless a try gets there."""
    end, tries = time.monotonic() + PATIENCE, 1
    while (reached := share.measure()) < least:
        tries += 1
        if time.monotonic() > end and tries > LEAST_TRIES:
            pytest.fail(f"{reached:.3f} of the roofline, half of the share is {least:.3f}")


@pytest.mark.skipif(not MEASURED, reason="no shares for this processor")
@pytest.mark.parametrize(("block", "share"), BLOCKS, ids=str)
def test_a_block_has_half_of_its_share(block: Block, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBG_ISA", block.kernel_set)
    reach(block_share(block), share / 2)


@pytest.mark.parametrize(("kernel_set", "layer", "share"), LAYERS, ids=str)
def test_a_layer_has_half_of_its_share(
    kernel_set: str, layer: Layer, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BBG_ISA", kernel_set)
    reach(layer_share(kernel_set, layer), share / 2)


@pytest.mark.skipif(not MEASURED, reason="no shares for this processor")
@pytest.mark.parametrize("kernel_set", MEASURED)
def test_every_kernel_set_of_this_machine_has_shares(kernel_set: str) -> None:
    assert len(blocks(RECORDED, kernel_set)) > 10


def test_the_record_is_written_as_it_is_read() -> None:
    assert text(RECORDED) == SHARES.read_text(encoding="utf-8")


def test_the_roofline_of_a_set_that_is_not_there_is_an_error() -> None:
    for name in {"sse", *LANES} - set(SUPPORTED):
        with pytest.raises(ValueError, match="no kernel set"):
            _native.roofline(name)
