"""How others name the modules of our networks, so that their weights are taken: tables from their names to ours.

A network that has such tables holds them as its attribute `elsewhere`; `bbg.training.transfer` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

Names = dict[str, str]  # qualified names of modules: theirs to ours

# Where VGG-16 has its convolutions in the `features` of torchvision, without and with BN; and behind them, as SSD's
# authors have converted them (the published vgg16_reducedfc has these numbers too), conv6 and conv7.
VGG = (
    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33),
    (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
)


def of_resnet(blocks: Sequence[int], paired: bool) -> Names:
    """A ResNet of torchvision, with so many basic blocks in each stage, to our `ResNet`.

    Ours has two units for each block; `paired`: in a module of their own, around which the shortcut goes.
    """
    found, count = {"conv1": "stem.0", "bn1": "stem.1", "fc": "head"}, 0
    for stage, number in enumerate(blocks, 1):
        for block in range(number):
            theirs = f"layer{stage}.{block}"
            units = [f"units.{count}.units.{i}" if paired else f"units.{2 * count + i}" for i in (0, 1)]
            for i, unit in enumerate(units, 1):
                found |= {f"{theirs}.conv{i}": f"{unit}.conv", f"{theirs}.bn{i}": f"{unit}.norm"}
            shortcut = f"units.{count}.shortcut" if paired else f"{units[0]}.shortcut"
            found |= {f"{theirs}.downsample.0": f"{shortcut}.conv", f"{theirs}.downsample.1": f"{shortcut}.norm"}
            count += 1
    return found


def resnet_in_stages(blocks: Sequence[int], paired: bool) -> Names:
    """The stem and the units of our `ResNet`, to where a detector has them, whose first map is that of stage 2."""
    found, count = {"stem": "stages.0.0"}, 0
    for stage, number in enumerate(blocks):
        place = f"stages.0.{stage + 1}" if stage < 2 else f"stages.{stage - 1}"
        units = number if paired else 2 * number
        found |= {f"units.{count + i}": f"{place}.{i}" for i in range(units)}
        count += units
    return found


def of_vgg16(convolutions: Sequence[str]) -> list[Names]:
    """VGG-16 of torchvision and of SSD's authors to ours, whose first convolution and then units these names are."""
    tables = []
    for numbers in VGG:
        found = {}
        for i, (number, ours) in enumerate(zip(numbers, convolutions, strict=False)):
            found[f"{number}"] = ours if i == 0 else f"{ours}.conv"
            if len(numbers) < len(VGG[0]):
                found[f"{number + 1}"] = f"{ours.rpartition('.')[0]}.1" if i == 0 else f"{ours}.norm"
        tables.append(found)
    return [
        {f"{prefix}{theirs}": ours for theirs, ours in table.items()}
        for table in tables
        for prefix in ("features.", "")
    ]


def moved(table: Names, places: Names) -> Names:
    """`table` where our modules are at other `places`: of each name the beginning is another; others go."""
    found = {}
    for theirs, ours in table.items():
        parts = ours.split(".")
        for n in range(len(parts), 0, -1):
            if (head := ".".join(parts[:n])) in places:
                found[theirs] = ".".join((places[head], *parts[n:]))
                break
    return found
