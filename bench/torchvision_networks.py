"""Networks of other libraries, none of them written here: binarized, trained for three steps, converted, and timed.

    python -m bench.torchvision_networks [--networks resnet18 ghostnet] [--rounds 10] [--folder build/torchvision]

Those of torchvision (cases/torchvision_networks.py), two of pytorchcv where that is installed, and the SqueezeNet for
CIFAR of weiaicunzai/pytorch-cifar100, written anew. Each is binarized with random weights, trained on eight images, and
converted, for which the law of the layers must hold on those images. Then it takes turns on one thread with OpenVINO,
which runs the real-valued original in int8, in its default precision, and in float32; and, where the CPU has AMX, all
of them once more without it. "Mixed" is the same network with 1 bit only where that is faster than 8 on this CPU
(widths.py), and 8 bits elsewhere. What has been converted stays in --folder and is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bbg
from bbg.binarization.report import DEPTHWISE, FIRST, LAST
from bbg.planning.costs import seconds_of
from bench import widths
from bench.markdown import figure, not_measured, plain, table
from bench.networks import bytes_of, entry_of, export
from bench.record import ROOT, Result, parser_of, read, run
from bench.runtimes import Entrant, compare, has_amx
from cases.torchvision_networks import NETWORKS, binary_twin_of

TITLE = "Networks that were not written here"
SIDE = 224
ENTRANTS = (
    Entrant("bbg", "1 bit"),
    Entrant("bbg", "mixed"),
    Entrant("OpenVINO", "int8"),
    Entrant("OpenVINO", "default"),
    Entrant("OpenVINO", "float32"),
)
NO_AMX = (
    Entrant("bbg", "1 bit", "avx512"),
    Entrant("bbg", "mixed", "avx512"),
    Entrant("OpenVINO", "int8", "AVX512_CORE_VNNI"),
)
LEAST = 0.3  # correlation of int8 with torch: random weights do not quantise well, which changes no time
REASONS = {FIRST: "first", LAST: "last", DEPTHWISE: "depthwise"}


class Fire(nn.Module):
    """1x1 to few channels, and from there 1x1 and 3x3 side by side (SqueezeNet, arXiv 1602.07360), each with BN."""

    def __init__(self, inputs: int, outputs: int, between: int) -> None:
        super().__init__()

        def layer(i: int, o: int, size: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(i, o, size, padding=size // 2), nn.BatchNorm2d(o), nn.ReLU(inplace=True))

        self.squeeze = layer(inputs, between, 1)
        self.one, self.three = layer(between, outputs // 2, 1), layer(between, outputs // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H, W]`."""
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


class CifarSqueezeNet(nn.Module):
    """SqueezeNet with bypasses for 32x32 images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        widths = ((96, 128, 16), (128, 128, 16), (128, 256, 32), (256, 256, 32), (256, 384, 48), (384, 384, 48))
        self.fires = nn.ModuleList(Fire(*width) for width in (*widths, (384, 512, 64), (512, 512, 64)))
        self.head = nn.Sequential(nn.Conv2d(512, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images `[N, 3, 32, 32]`."""
        x = self.pool(self.stem(x))
        for number, fire in enumerate(self.fires):
            y = fire(x)
            x = y + x if number in (1, 3, 5) else y
            x = self.pool(x) if number in (2, 6) else x
        logits: Tensor = self.head(x)
        return logits


def from_pytorchcv(name: str, num_classes: int) -> nn.Module:
    """The network of pytorchcv; ImportError where it is not installed."""
    from pytorchcv.model_provider import get_model

    network: nn.Module = get_model(name, num_classes=num_classes)
    return network


BUILDERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    **{name: (partial(make, weights=None), SIDE) for name, (make, _) in NETWORKS.items()},
    **{name: (partial(from_pytorchcv, name), SIDE) for name in ("ghostnet", "hardnet39ds")},
    "squeezenet_cifar": (CifarSqueezeNet, 32),
}


def convert(name: str, folder: Path) -> dict[str, Any]:
    """Make NAME.bbg and the twin's files; what was found on the way."""
    make, side = BUILDERS[name]
    network, original, images, losses = binary_twin_of(make, side, entry_of(name).classes)
    report = bbg.convert(network, folder / f"{name}.bbg", images, edges="int8", preprocess=entry_of(name).preset)
    export(original, name, images[:1].numpy(), images.numpy(), folder)
    mixed = convert_mixed(name, original, images, folder)
    kept = Counter(REASONS.get(row.why, row.why.partition(":")[0]) for row in network.report.of("kept") if row.macs)
    return {
        "network": name,
        "float32_bytes": sum(4 * tensor.numel() for tensor in original.state_dict().values()),
        "bytes": report.after,
        "share": network.report.share,
        "share_beside_depthwise": network.report.share_beside_depthwise,
        "binary_layers": len(network.report.of("binary")),
        **mixed,
        "stays_real": ", ".join(f"{count} {reason}" for reason, count in kept.items()),
        "losses": losses,
        "law": report.difference,
        "near_ties": report.ties,
        "images": report.agreement.images,
        "images_departed": report.agreement.diverged,
        "departure": report.agreement.divergence,
    }


def convert_mixed(name: str, original: nn.Module, images: Tensor, folder: Path) -> dict[str, Any]:
    """Make NAME.mixed.bbg, with 1 bit where it pays; all layers have 8 bits where it pays nowhere."""
    make, side = BUILDERS[name]
    entry = entry_of(name)
    image = bytes_of(name)

    def trained(layers: tuple[str, ...]) -> nn.Module:
        return binary_twin_of(make, side, entry.classes, binary=layers)[0] if layers else original

    layers = [(), *widths.choices(original, images, entry.preset, image)]
    networks = [trained(names) for names in layers]
    best = int(np.argmin(seconds_of([widths.packed(network, images, entry.preset) for network in networks], image)))
    widths.packed(networks[best], images, entry.preset, folder / f"{name}.mixed.bbg")
    return {"mixed_layers": len(layers[best]), "mixed_bytes": (folder / f"{name}.mixed.bbg").stat().st_size}


def converted(name: str, folder: Path) -> dict[str, Any]:
    """The facts of `convert`, from the folder where it has them already."""
    facts = folder / f"{name}.json"
    if not facts.exists():
        found = convert(name, folder)
        facts.write_text(json.dumps(found), encoding="utf-8")
    return read(facts)


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = []
    for name in arguments.networks:
        found.append(converted(name, arguments.folder))
        print(json.dumps(found[-1]), flush=True)
    result: Result = {"absent": [], "trained_on": "generated images", "torchvision_networks": found}
    for row in found:
        for entrants in (ENTRANTS, *([NO_AMX] if has_amx() else [])):
            timed, absent = compare(row["network"], 1, entrants, arguments.rounds, arguments.folder, LEAST)
            result["absent"] += absent
            held = "" if entrants is ENTRANTS else "_no_amx"
            times = {entrant["precision"]: entrant for entrant in timed}
            row[f"min_us{held}"] = times["1 bit"]["min_us"]
            row[f"mixed_min_us{held}"] = times["mixed"]["min_us"]
            for precision in ("int8", "default", "float32"):
                if precision in times:
                    row[f"{precision}_ratio{held}"] = times[precision]["ratio_of_min"]
            if "int8" in times:
                row[f"mixed_int8_ratio{held}"] = times["int8"]["min_us"] / times["mixed"]["min_us"]
        print(json.dumps(row), flush=True)
    return result


def render(result: Result) -> str:
    """A row per network."""
    text = (
        "224x224 (squeezenet_cifar: 32x32), one image, one thread, 8-bit edges. Shares are of the multiply-accumulates "
        "outside the first and the last layer. The law of the layers held on eight "
        f"{result['trained_on']}. OpenVINO runs the real-valued original; with random weights its int8 is far from "
        "float32, which changes no time."
    )
    rows = table(
        result["torchvision_networks"],
        plain("network"),
        ("float32, MB", lambda r: f"{r['float32_bytes'] / 1e6:.1f}"),
        ("packed, MB", lambda r: f"{r['bytes'] / 1e6:.2f}"),
        ("MACs at 1 bit, %", lambda r: f"{100 * r['share']:.1f}"),
        ("without depthwise", lambda r: f"{100 * r['share_beside_depthwise']:.1f}"),
        plain("stays_real", "stays real"),
        ("largest difference in a layer", lambda r: f"{r['law']:.0e}"),
        figure("min_us", "bbg, us"),
        figure("int8_ratio", "OpenVINO int8, times bbg"),
        figure("default_ratio", "its default"),
        figure("float32_ratio", "float32"),
        figure("int8_ratio_no_amx", "int8, both without AMX"),
        figure("mixed_layers", "mixed: layers at 1 bit"),
        ("MB", lambda r: f"{r['mixed_bytes'] / 1e6:.2f}" if "mixed_bytes" in r else ""),
        figure("mixed_int8_ratio", "OpenVINO int8, times mixed"),
        figure("mixed_int8_ratio_no_amx", "without AMX"),
    )
    return f"{text}\n\n{rows}{not_measured(result['absent'])}"


if __name__ == "__main__":
    parser = parser_of("torchvision_networks", __doc__, rounds=10)
    parser.add_argument("--networks", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "torchvision")
    run(parser, rows, ("torch", "torchvision", "openvino", "numpy"))
