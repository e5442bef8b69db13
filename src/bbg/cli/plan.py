"""The verb plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import tell
from bbg.cli.parser import DATA, FACTORY, JSON, argument, count, new_file, verb
from bbg.errors import BbgError

if TYPE_CHECKING:
    from torch import nn

    from bbg.planning import Plan
    from bbg.planning.planner import Variant
    from bbg.training.checkpoint import Checkpoint


@verb(
    argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of bbg train, of a float network"),
    argument(
        "--budget", required=True, metavar="AMOUNT", help="of one image on one thread, or of the file: 200us, 100kB"
    ),
    argument(
        "-o", "--output", type=new_file, required=True, metavar="FILE", help="the recipe to write, with the widths"
    ),
    argument("--method", default="bbg", metavar="NAME", help="of the 1-bit layers; default: bbg"),
    argument("--steps", type=count, default=24, metavar="N", help="steps of recovery per layer; default: 24"),
    argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help="take losses and times from what --json wrote for another budget, or on the machine that is to run it",
    ),
    argument("--plot", type=new_file, metavar="FILE", help="draw the frontier of plans, PNG"),
    DATA,
    FACTORY,
    JSON,
)
def plan(
    checkpoint: Path,
    budget: str,
    output: Path,
    method: str,
    steps: int,
    measured: Path | None,
    plot: Path | None,
    data: Path | None,
    factory: str | None,
    json: Path | None,
) -> None:
    """Choose 1 or 8 bits for each layer of a trained network, for a budget of time or bytes."""
    from bbg.budget import Budget
    from bbg.data import open_recipe
    from bbg.files import write_text
    from bbg.planning import Plan
    from bbg.planning import plan as plan_widths
    from bbg.planning.plots import draw_frontier
    from bbg.training.checkpoint import Checkpoint

    Budget.of(budget)
    trained = Checkpoint.load(checkpoint)
    known = None if measured is None else Plan.read(measured).at(budget)
    model: nn.Module | Variant
    model = trained.network(_factory(factory)) if trained.custom else _of_our_own(trained, checkpoint, method)
    if known is None:
        split = open_recipe(trained.recipe, data)
        found = plan_widths(model, split, budget, method=method, act=_act(trained), steps=steps)
    else:
        found = _of_this_network(known, model, str(measured))
    changes: dict[str, Any] = {
        "method": method,
        "bits": found.bits,
        "weights": str(checkpoint.resolve()),
        "act": _act(trained),
    }
    changes |= {"factory": factory} if trained.custom else {}
    comment = found.to_toml().partition("\n")[0]
    write_text(output, f"{comment}\n{trained.recipe.changed(changes).to_toml()}")
    facts: dict[str, Any] = {"plan": str(found), "recipe": str(output)}
    if plot is not None:
        facts["plot"] = str(draw_frontier(found, plot))
    tell({**facts, **found.to_dict()} if json is not None else facts, json)


def _of_this_network(plan: Plan, model: nn.Module | Variant, file: str) -> Plan:
    """`plan`; BbgError where the network has not all of its layers."""
    from torch import nn

    modules = dict((model if isinstance(model, nn.Module) else model({"*": 8})).named_modules())
    for layer in plan.layers:
        if layer.name not in modules:
            raise BbgError(f"the plan {file!r} is of another network: this one has no layer {layer.name!r}")
    return plan


def _factory(name: str | None) -> Any:
    from bbg.training.factory import find_factory

    return None if name is None else find_factory(name)


def _act(trained: Checkpoint) -> str:
    """The nonlinearity of the planned network: behind a ReLU a sign is always +1, so an RPReLU stands there instead."""
    return "rprelu" if trained.recipe.act in (None, "relu") else trained.recipe.act


def _of_our_own(trained: Checkpoint, path: Path, method: str) -> Variant:
    """The network of the recipe with layers of other widths, from the trained weights."""
    from bbg.training.factory import build
    from bbg.training.transfer import Weights

    trained.check_network()
    weights = Weights.read(path)

    def variant(bits: Mapping[str, int]) -> nn.Module:
        recipe = trained.recipe.changed({"method": method, "bits": dict(bits), "act": _act(trained)})
        network = build(recipe, len(trained.classes), trained.preprocess)
        weights.give_to(network)
        return network

    return variant
