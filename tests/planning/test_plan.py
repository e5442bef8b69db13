"""Plans: budgets, costs, the frontier and its choice, and the whole way on a trained network."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.commands import refused, run
from support.kill_train import RECIPE
from support.trainings import first
from torch import nn

import bbg
from bbg.budget import Budget
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.layers.bits import bits_of
from bbg.planning import Plan, plan
from bbg.planning.costs import Cost, costs_by_layer, layer_of, pack, seconds_of
from bbg.planning.frontier import PlannedLayer, Step, frontier_of
from bbg.planning.planner import _timed
from bbg.planning.plots import draw_frontier
from bbg.recipe import Recipe
from bbg.training.loop import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


@pytest.fixture(scope="module")
def trained(digits: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float ResNet-8 of 4 channels, trained for an epoch."""
    folder = tmp_path_factory.mktemp("float")
    few = digits._replace(test=first(digits.test, 60))
    train(
        RECIPE.changed({"method": "float", "epochs": 1, "bn_batches": 0}), few, folder, overwrite=True, progress=False
    )
    return folder / "last.ckpt"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("200us", ("seconds", 200e-6)),
        (" 1.5 ms ", ("seconds", 1.5e-3)),
        (".5s", ("seconds", 0.5)),
        ("100kB", ("bytes", 1e5)),
        ("1MB", ("bytes", 1e6)),
        ("12 B", ("bytes", 12.0)),
    ],
)
def test_a_budget_is_a_time_or_bytes(text: str, wanted: tuple[str, float]) -> None:
    assert Budget.of(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "200", "us", "-1us", "0us", "1e3us", "200 parsecs", None, 200])
def test_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(BbgError, match=r"the budget is .*, allowed are a time or bytes: a number and one of us, ms"):
        Budget.of(text)


def test_ops_belong_to_the_layer_around_them() -> None:
    layers = ["stem.0", "units.0.conv", "units.1.conv", "layer1.0.conv1", "fc"]
    wanted = {
        "stem.0": "stem.0",
        "stem.0.bytes": "stem.0",
        "units.0.conv": "units.0.conv",
        "units.0.shortcut.pool": "units.0.conv",
        "units.1.conv.sign": "units.1.conv",
        "units.10.conv": None,
        "layer1.0.conv1.shortcut": "layer1.0.conv1",
        "layer1.0.conv1.conv": "layer1.0.conv1",
        "layer1.0.relu": None,
        "pool": None,
    }
    assert {op: layer_of(op, layers) for op in wanted} == wanted


def test_costs_are_those_of_the_packed_file(digits: Split, tmp_path: Path) -> None:
    model = bbg.create("resnet8", num_classes=10, width=4, in_channels=1, bits={"first": 8, "units.[01]": 8, "last": 8})
    x = torch.from_numpy(digits.preprocess.normalize(digits.train.images[:16]))  # type: ignore[attr-defined]
    layers = [name for name, module in model.named_modules() if bits_of(module) is not None]
    network = pack(model, x, digits.preprocess)
    [(found, rest)] = costs_by_layer([network], layers, x[:1].numpy())
    bbg.convert(model, tmp_path / "n.bbg", x[:2], edges="fp32", preprocess=digits.preprocess)
    ops = bbg.graph.file.read(tmp_path / "n.bbg").graph.costs()  # type: ignore[attr-defined]
    assert sum((cost.bytes for cost in found.values()), rest.bytes) == sum(op.bytes for op in ops)
    assert all(cost.seconds > 0 and cost.bytes > 0 for cost in found.values())
    assert model.training  # as it came
    twice = seconds_of([network, network], x[:1].numpy())
    assert 0 < twice[0] < 2 * twice[1] < 4 * twice[0]


LAYERS = [
    PlannedLayer("a", 8, {8: 10, 1: 5}, {8: 100, 1: 20}, 0.5),
    PlannedLayer("b", 8, {8: 10, 1: 2}, {8: 100, 1: 90}, 0.1),
    PlannedLayer("c", 8, {8: 10, 1: 9}, {8: 100, 1: 10}, 0.4),
    PlannedLayer("d", 8, {8: 1, 1: 2}, {8: 100, 1: 50}, 0.0),  # it gets slower
]


def test_the_frontier_takes_the_cheapest_loss_first() -> None:
    steps = frontier_of(LAYERS, Cost(3, 7), "seconds")
    assert [step.binary for step in steps] == [(), ("b",), ("b", "a"), ("b", "a", "c")]
    assert [step.seconds for step in steps] == [34, 26, 21, 20]
    assert [step.bytes for step in steps] == [407, 397, 317, 227]
    assert [step.loss for step in steps] == pytest.approx([0, 0.1, 0.6, 1.0])
    by_bytes = frontier_of(LAYERS, Cost(3, 7), "bytes")
    assert by_bytes[-1].binary == ("d", "c", "a", "b")


def test_a_plan_is_made_for_another_budget_from_what_was_measured() -> None:
    """The steps took 80 to 50 % of their sums of 34 to 20 s."""
    sums = frontier_of(LAYERS, Cost(3, 7), "seconds")
    frontier = tuple(
        step._replace(seconds=step.seconds * share) for step, share in zip(sums, (0.8, 0.7, 0.6, 0.5), strict=True)
    )
    given = Plan.chosen_for("20s", LAYERS, frontier, Cost(3, 7), 60.0)
    assert given.bits == {"b": 1, "*": 8}
    assert given.at("20s") == given
    assert given.at("13s").bits == {"a": 1, "b": 1, "*": 8}
    small = given.at("270B")
    assert small.bits == {"c": 1, "d": 1, "*": 8}  # d costs no loss, c the least per byte
    assert small.bytes == 407 - 50 - 90
    assert small.seconds == pytest.approx(34 * 0.8)  # the sums of 8 bits, less 1 s of c, and 1 s more of d
    with pytest.raises(BbgError, match="the budget of 1B cannot be met: the least is"):
        given.at("1B")


def test_steps_of_equal_sums_keep_what_was_measured() -> None:
    layers = [PlannedLayer(name, 8, {8: 10, 1: 10}, {8: 100, 1: 20}, 0.1) for name in "ab"]
    sums = frontier_of(layers, Cost(3, 7), "bytes")
    measured = tuple(step._replace(seconds=seconds) for step, seconds in zip(sums, (20.0, 18.0, 19.0), strict=True))
    given = Plan.chosen_for("1kB", layers, measured, Cost(3, 7), 60.0)
    assert given.at("1kB") == given


@pytest.mark.parametrize(
    ("budget", "measured", "chosen"),
    [
        ("35s", 1, 0),  # the ends, and nothing between: all are fast enough
        ("19s", 4, 3),
        ("14.5s", 4, 4),
        ("1s", 1, None),
    ],
)
def test_times_are_measured_where_the_budget_lies(budget: str, measured: int, chosen: int | None) -> None:
    """Plans take 80 to 66 % of their sums, 40, 35, ... s, and the machine is twice as slow in every second look."""
    frontier = tuple(Step(("a",) * i, 40.0 - 5 * i, 1.0, 0.0) for i in range(8))
    seconds = [step.seconds * (0.8 - 0.02 * i) for i, step in enumerate(frontier)]
    looks: list[int] = []

    def measure(step: Step) -> list[float]:
        i = len(step.binary)
        looks.append(i)
        slow = 2 - len(looks) % 2
        return [seconds[0] * slow, seconds[i] * slow]

    wanted = Budget.of(budget)
    found = _timed(frontier, wanted, measure)
    assert [step.seconds for step in found] == pytest.approx(seconds)
    assert next((i for i, step in enumerate(found) if step.seconds <= wanted.amount), None) == chosen
    assert len(looks) == measured


def test_bytes_need_no_bisection() -> None:
    """And plans in the order of their bytes may take more time, one after the other."""
    frontier = tuple(Step(("a",) * i, 40.0 + 5 * i, 9.0 - i, 0.0) for i in range(3))
    looks: list[Step] = []

    def measure(step: Step) -> list[float]:
        looks.append(step)
        return [20.0, 30.0]

    found = _timed(frontier, Budget.of("5B"), measure)
    assert looks == [frontier[-1]]
    assert [step.seconds for step in found] == pytest.approx([20.0, 45 * (0.5 + 0.6) / 2, 30.0])


def test_a_network_of_one_plan_is_timed() -> None:
    [only] = _timed((Step((), 40.0, 9.0, 0.0),), Budget.of("1us"), lambda step: [20.0, 20.0])
    assert only.seconds == 20.0


@pytest.fixture(scope="module")
def planned(trained: Path, digits: Split) -> Plan:
    from bbg.training.checkpoint import Checkpoint

    return plan(Checkpoint.load(trained).network(), digits, "1s", steps=2)


def test_a_plan_of_a_trained_network(planned: Plan, digits: Split, trained: Path, tmp_path: Path) -> None:
    assert [layer.bits for layer in planned.layers] == [8] * len(planned.layers)  # the budget is ample
    assert len(planned.layers) == 8
    assert planned.bits == {"*": 8}
    # The last plan has the layers at 1 bit that are faster so alone; as a whole so small a network may be no faster.
    faster = {layer.name for layer in planned.layers if layer.seconds[1] < layer.seconds[8]}
    assert {*planned.frontier[-1].binary} == faster
    assert planned.frontier[0].binary == ()
    assert planned.rest.bytes + sum(layer.bytes[8] for layer in planned.layers) == planned.frontier[0].bytes
    assert tomllib.loads(planned.to_toml())["bits"] == planned.bits
    assert "of 8 layers at 1 bit" in str(planned)
    assert Image.open(draw_frontier(planned, tmp_path / "p.png")).format == "PNG"
    for layer in planned.layers:
        assert layer.bytes[1] < layer.bytes[8]


def test_a_tight_budget_of_bytes_makes_layers_binary(planned: Plan, trained: Path, digits: Split) -> None:
    from bbg.training.checkpoint import Checkpoint

    model = Checkpoint.load(trained).network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    middle = (planned.frontier[0].bytes + sum(layer.bytes[1] for layer in planned.layers)) / 2
    found = plan(model, digits, f"{middle:.0f}B", steps=2)
    assert found.bytes <= middle
    assert 1 in found.bits.values()
    binary = bbg.binarize(model, keep=(), bits=found.bits, example=torch.zeros(2, 1, 8, 8))
    rows = {row.name: row.bits for row in binary.report.rows if row.bits is not None}
    assert rows == {layer.name: layer.bits for layer in found.layers}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("budget", ["1B", "1us"])
def test_a_budget_that_cannot_be_met_is_told_before_losses_are_measured(
    budget: str, trained: Path, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bbg.training.checkpoint import Checkpoint

    monkeypatch.setattr("bbg.planning.planner.recovered_loss", lambda *_: pytest.fail("a loss was measured"))
    with pytest.raises(BbgError, match=f"the budget of {budget} cannot be met: the least is"):
        plan(Checkpoint.load(trained).network(), digits, budget, steps=1)


def test_depthwise_layers_have_8_bits_in_every_plan(digits: Split) -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(1, 8, 1), *deep, nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = plan(nn.Sequential(model, nn.Linear(8, 10)), digits, "1s", steps=1)
    assert {layer.name for layer in found.layers} == {"0.0", "0.4", "1"}
    binary = bbg.binarize(nn.Sequential(model, nn.Linear(8, 10)), "bbg", (), torch.zeros(2, 1, 8, 8), bits=found.bits)
    assert {row.name: row.bits for row in binary.report.rows if row.bits is not None}["0.1"] == 8


def test_what_cannot_be_planned_is_refused(digits: Split) -> None:
    few = digits._replace(train=first(digits.train, 100))
    with pytest.raises(BbgError, match="there are 100 training images; a plan needs 1024 or more"):
        plan(nn.Conv2d(1, 1, 1), few, "1us")


def test_the_command_writes_a_recipe_that_trains(trained: Path, tmp_path: Path, capsys: Any) -> None:
    recipe, picture = tmp_path / "plan.toml", tmp_path / "plan.png"
    run("plan", trained, "--budget", "12kB", "-o", recipe, "--plot", picture, "--steps", "1")
    found = Recipe.load(recipe)
    assert found.method == "bbg"
    assert found.bits is not None
    assert found.weights == str(trained.resolve())
    assert recipe.read_text().startswith("# for a budget of 12kB: ")
    assert Image.open(picture).format == "PNG"
    run("train", recipe, "--epochs", "1", "--set", "bn_batches=0", "--out", tmp_path / "run")
    refused(tmp_path, capsys, "allowed are a time or bytes", "plan", trained, "--budget", "12 cows", "-o", recipe)


def test_the_plan_of_a_network_of_ones_own_names_its_factory(digits: Split, tmp_path: Path) -> None:
    factory, recipe = "support.factories:convolution", tmp_path / "plan.toml"
    own = RECIPE.changed({"network": None, "factory": factory, "method": "float", "epochs": 1, "bn_batches": 0})
    train(own, digits, tmp_path / "own", progress=False)
    run("plan", tmp_path / "own" / "last.ckpt", "--budget", "1s", "-o", recipe, "--steps", "1", "--factory", factory)
    found = Recipe.load(recipe)
    assert (found.factory, found.act, found.network) == (factory, "rprelu", None)
    run("train", recipe, "--epochs", "1", "--set", "bn_batches=0", "--out", tmp_path / "run")


def test_the_command_plans_from_what_was_measured(trained: Path, tmp_path: Path, capsys: Any) -> None:
    recipe, first_plan, second = tmp_path / "plan.toml", tmp_path / "first.json", tmp_path / "second.json"
    run("plan", trained, "--budget", "12kB", "-o", recipe, "--steps", "1", "--json", first_plan)
    capsys.readouterr()
    given = Plan.read(first_plan)
    assert given.at("12kB") == given
    # --data is not there: no images are read
    run("plan", trained, "--budget", "3kB", "-o", recipe, "--measured", first_plan, "--json", second)
    found = Plan.read(second)
    assert found == given.at("3kB")
    assert found.bytes <= 3000
    assert Recipe.load(recipe).bits == found.bits != given.bits

    def refuse(text: str, change: dict[str, Any]) -> None:
        first_plan.write_text(json.dumps({**given.to_dict(), **change}))
        refused(
            tmp_path, capsys, text, "plan", trained, "--budget", "9kB", "-o", tmp_path / "x", "--measured", first_plan
        )

    layer, step = given.to_dict()["layers"][0], given.to_dict()["frontier"][0]
    refuse(
        "is of another network: this one has no layer 'elsewhere'",
        {"layers": [{**layer, "name": "elsewhere"}], "frontier": [step]},
    )
    refuse("does not fit its layers", {"layers": given.to_dict()["layers"][:1]})
    refuse("does not fit its layers", {"frontier": []})
    refuse("it must not be negative", {"rest": {"seconds": -1.0, "bytes": 0}})
    refuse("it must be a number below", {"layers": [{**layer, "loss": "much"}]})
    refuse("it must be a list", {"layers": {}})
    refuse("unknown key 'size'", {"rest": {"seconds": 1.0, "bytes": 0, "size": 1}})
    first_plan.write_text("{}")
    with pytest.raises(BbgError, match="key 'budget' is missing in the plan"):
        Plan.read(first_plan)
    with pytest.raises(BbgError, match=r"the plan '.*none.json' cannot be read: No such file"):
        Plan.read(tmp_path / "none.json")
