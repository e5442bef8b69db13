"""How many public networks go the whole way: binarize with its proof, train three steps, convert, and agree with torch.

    python -m bench.generality [--networks timm/resnet18 ...] [--limit 600] [--processes 1] [--out FILE.json]

`generality-before.json` has the same of an older commit, whose package was installed into a folder of its own:

    git worktree add ../old ea84544 && pip install --no-deps --target BEFORE ../old
    PYTHONPATH=BEFORE:. python -m bench.generality --out bench/results/generality-before.json

(with `bbg` installed as editable its finder comes first: use an environment without it).

The sample is that of cases/public_networks.py. Each network is a process of its own, at the smallest of `SIDES` that it
takes. A row is written as it is done, and rows that the record has are not made again, so a run can go on another day.

What became of a network:

    ok         it went the whole way
    refused    by check or binarize, before any training
    late       at a training step or by convert, though neither refused it
    crash      an exception that is not ours, a crash of the process, or no end within the limit
    wrong      the packed real-valued network differs from torch by more than 1e-3 of its largest output, and by more
               than three times what torch in float32 differs from torch in float64
    frozen     parameters or statistics that the network trains stay as they are in the binarized one
    unusable   it does not run in torch at any of these sizes, or holds what torch cannot train
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError
from bbg.files import write_text
from bbg.image import Preprocess
from bench.markdown import plain, table
from bench.record import RESULTS, Result, commit, machine, parser_of, read
from cases.images import photographs
from cases.public_networks import build, family, has_attention, names

TITLE = "Public networks"
SIDES = (64, 96, 128, 160, 224, 256, 299, 320, 512, 32)  # some that are made for CIFAR take 32 alone
IMAGES = 4
TOLERANCE = 1e-3
STEPS = 3


def tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors of what a network returns, in a fixed order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from tensors(value)


def arrays(answer: Any) -> list[Tensor]:
    """What the engine returns, as tensors."""
    values = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, (tuple, list)) else [answer]
    return [torch.from_numpy(value) for value in values]


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, of the largest number of its output."""
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return float("inf")
    return max(float((f - w).abs().max() / w.abs().max().clamp(min=1e-12)) for f, w in zip(found, wanted, strict=True))


def images_for(network: nn.Module) -> Tensor | None:
    """Images of the smallest side that it takes; None where it takes none."""
    for side in SIDES:
        images = torch.from_numpy(Preprocess(side).normalize(photographs(side, IMAGES)))
        try:
            with torch.no_grad():
                copy.deepcopy(network).train()(images)
                network.eval()(images)
        except Exception:  # a stranger's network refuses a size by whatever exception it meets
            continue
        return images
    return None


def learns(network: nn.Module, images: Tensor, steps: int) -> set[int]:
    """Parameters (by address) that get a gradient in training, and statistics that change."""
    network.train()
    before = {b.data_ptr(): b.clone() for b in network.buffers()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-4)
    moved: set[int] = set()
    for _ in range(steps):
        generator = torch.Generator().manual_seed(0)
        outputs = list(tensors(network(images)))
        loss = sum(((y - torch.randn(y.shape, generator=generator)) ** 2).mean() for y in outputs)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        moved |= {p.data_ptr() for p in network.parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    return moved | {b.data_ptr() for b in network.buffers() if not torch.equal(b, before[b.data_ptr()])}


def settle(network: nn.Module, images: Tensor) -> None:
    """Batch norms hold the statistics of the images, so that the numbers stay in a trained network's range."""
    norms = [module for module in network.modules() if hasattr(module, "running_mean") and hasattr(module, "momentum")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def packed_answer(network: nn.Module, images: Tensor, folder: Path) -> list[Tensor]:
    """What the packed network, with float edges, says of the images."""
    path = folder / "network.bbg"
    bbg.convert(network.eval(), path, images, edges="fp32")
    return arrays(bbg.load(path, threads=1)(images.numpy()))


def rounding(network: nn.Module, images: Tensor) -> float:
    """How much torch's own float32 differs from float64: in a deep network with random weights rounding grows."""
    with torch.no_grad():
        single = list(tensors(network(images)))
        double = list(tensors(copy.deepcopy(network).double()(images.double())))
    return difference([y.double() for y in single], double)


def judge(name: str, row: Result, folder: Path) -> str:
    """What became of a network; `row` gets times and causes."""
    torch.manual_seed(0)
    network = build(name)
    row["parameters"] = sum(p.numel() for p in network.parameters())
    images = images_for(network)
    if images is None:
        return "unusable"
    row["side"] = images.shape[2]
    settle(network, images)
    trained = learns(copied := copy.deepcopy(network), images, 1)
    order = [v.data_ptr() for v in (*copied.parameters(), *copied.buffers())]
    numbers = {i for i, address in enumerate(order) if address in trained}
    real = copy.deepcopy(network)
    start = time.perf_counter()
    try:
        bbg.check(network, images[:1])
    except BbgError as error:
        row["check"] = str(error)
    row["check_s"] = round(time.perf_counter() - start, 2)
    with torch.no_grad():
        wanted = list(tensors(real.eval()(images)))
    if "check" not in row:
        row["difference"] = difference(packed_answer(real, images, folder), wanted)
        if row["difference"] > TOLERANCE:
            row["rounding"] = rounding(real, images)
            if row["difference"] > 3 * row["rounding"]:
                return "wrong"
    start = time.perf_counter()
    binary = bbg.binarize(network, example=images[:1])
    row["binarize_s"] = round(time.perf_counter() - start, 2)
    row["binary_layers"] = len(binary.report.of("binary"))
    row["one_sign"] = sum("one sign only" in layer.why for layer in binary.report.of("binary"))
    proof = binary.report.proof
    row["proof"] = max(proof.evaluation, proof.training, proof.gradients, proof.statistics)
    row["stage"] = "training"
    own = {v.data_ptr(): i for i, v in enumerate((*network.parameters(), *network.buffers()))}
    there = {own[v.data_ptr()] for v in (*binary.parameters(), *binary.buffers()) if v.data_ptr() in own}
    learnt = learns(binary, images, STEPS)
    frozen = sorted(i for address, i in own.items() if i in numbers & there and address not in learnt)
    row["stage"] = "converting"
    bbg.convert(binary.eval(), folder / "binary.bbg", images, edges="fp32")
    if frozen:
        labels = [n for n, _ in (*network.named_parameters(), *network.named_buffers())]
        row["frozen"] = [labels[i] for i in frozen][:20]
        return "frozen"
    return "ok"


def row_of(name: str) -> Result:
    """The row of one network."""
    row: Result = {"network": name, "family": family(name), "attention": has_attention(name), "stage": "checking"}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row["outcome"] = judge(name, row, Path(folder))
        except BbgError as error:
            row["outcome"] = "refused" if row["stage"] == "checking" or "check" in row else "late"
            row["cause"] = str(error)
        except Exception as error:  # whatever a stranger's network makes of us
            row["outcome"] = "crash"
            row["cause"] = f"{type(error).__name__}: {error}"[:500]
            row["trace"] = traceback.format_exc()[-1500:]
    return row


def in_a_process(name: str, limit: float) -> Result:
    """The row of one network, made by a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.generality", "--one", name]
    lost: Result = {"network": name, "family": family(name), "attention": has_attention(name), "outcome": "crash"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {**lost, "cause": f"no end within {limit:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"network"')]
    if done.returncode or not lines:
        return {**lost, "cause": f"the process ended with {done.returncode}: {done.stderr[-300:]}"}
    row: Result = json.loads(lines[-1])
    return row


def rows(arguments: argparse.Namespace) -> Result:
    """The record, with all rows that it does not have yet."""
    record = read(arguments.out) if arguments.out.exists() else machine(("torch", "torchvision", "timm", "pytorchcv"))
    found = record.setdefault("networks", [])
    record["sample"] = len(names())
    done = {row["network"] for row in found}
    wanted = [name for name in arguments.networks or names() if name not in done]
    with ThreadPoolExecutor(arguments.processes) as pool:
        for row in pool.map(lambda name: in_a_process(name, arguments.limit), wanted):
            found.append({**row, "commit": commit()})
            print(f"{row['outcome']:9} {row['network']}  {row.get('cause', '')[:300]}", flush=True)
            write_text(arguments.out, json.dumps(record, indent=1) + "\n")
    return record


def cause_of(row: Result) -> str:
    """The kind of a refusal: what it says, without the names."""
    text = re.sub(r"^[^:]*\([A-Za-z_0-9]*\)( at [^:]*:\d+)?: ", "", row.get("cause", ""))
    return re.sub(r"\d+", "N", text).split(";")[0][:100]


def share(rows: list[Result]) -> str:
    """How many went the whole way."""
    done = sum(row["outcome"] == "ok" for row in rows)
    return f"{done} of {len(rows)} ({100 * done / len(rows):.0f} %)" if rows else "none"


def render(result: Result) -> str:
    """The share before and after, a row per family, and what the others ended with."""
    before = read(RESULTS / "generality-before.json")
    usable = [row for row in result["networks"] if row["outcome"] != "unusable"]
    earlier = {row["network"]: row for row in before["networks"]}
    both = [row for row in usable if row["network"] in earlier and not row["attention"]]
    attention = [row for row in usable if row["attention"]]
    lines = []
    for one in sorted({row["family"] for row in usable}):
        those = [row for row in usable if row["family"] == one]
        known = [earlier[row["network"]] for row in those if row["network"] in earlier]
        lines.append({"family": one, "before": known, "after": those})

    def counted(rows: list[Result]) -> str:
        counts = Counter(row["outcome"] for row in rows)
        return ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())

    families = table(
        lines,
        plain("family"),
        ("before", lambda row: counted(row["before"])),
        ("after", lambda row: counted(row["after"])),
    )

    def causes(rows: list[Result]) -> str:
        kinds = Counter((row["outcome"], cause_of(row)) for row in rows if row["outcome"] != "ok")
        return table(
            [{"networks": n, "outcome": outcome, "cause": cause} for (outcome, cause), n in kinds.most_common(15)],
            *(plain(name) for name in ("networks", "outcome", "cause")),
        )

    return "\n\n".join(
        (
            f"The sample of [public_networks.py](../cases/public_networks.py) has {result['sample']} networks, of "
            f"which {len(both)} without attention were judged at both commits. Before ({before['commit']}) "
            f"{share([earlier[row['network']] for row in both])} went the whole way, after {share(both)}; with "
            f"attention {share(attention)}. The whole way: binarize with its proof, three steps of training, convert, "
            "and the packed network, real-valued too, agrees with torch.",
            families,
            "What the others ended with, before:",
            causes([earlier[row["network"]] for row in both]),
            "And after:",
            causes(usable),
        )
    )


if __name__ == "__main__":
    parser = parser_of("generality", __doc__, rounds=1)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(row_of(given.one)), flush=True)
    else:
        RESULTS.mkdir(exist_ok=True)
        rows(given)
