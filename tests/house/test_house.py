"""The rules of the house: who may import whom, what needs no torch, how long a file may be."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

import bbg
from bbg.errors import BbgError

PACKAGE = ROOT / "src" / "bbg"

# A room is a file or a folder of the package. It imports from rooms on lower floors, and from no other.
FLOORS = {
    "errors": 0, "_native": 0, "_version": 1, "recipes": 1, "metrics": 1, "boxes": 1, "log": 1, "environment": 1,
    "reading": 1, "formats": 1, "maps": 1, "drafts": 1, "threads": 1,
    "files": 2, "sources": 2, "heads": 2, "image": 2, "tables": 2, "cpu": 2, "recipe": 2, "methods": 2, "style": 2,
    "budget": 2, "limits": 2, "average_precision": 2,
    "drawing": 3, "coco_precision": 3,
    "graph": 3, "layers": 3, "data": 3,
    "masks": 4, "zoo": 4, "tracing": 4, "analysis": 4,
    "engine": 5, "binarization": 5, "models": 5,
    "conversion": 6, "scoring": 6,
    "training": 7,
    "comparison": 8, "planning": 8,
    "__init__": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
# Rooms that work where torch is not installed. The verbs of the command line import torch when they need it.
RUNTIME = {
    "budget",
    "limits",
    "reading",
    "formats",
    "drafts",
    "threads",
    "errors",
    "_version",
    "recipes",
    "_native",
    "files",
    "heads",
    "log",
    "environment",
    "image",
    "tables",
    "cpu",
    "recipe",
    "zoo",
    "graph",
}
RUNTIME |= {
    "engine",
    "sources",
    "scoring",
    "metrics",
    "style",
    "drawing",
    "data",
    "maps",
    "masks",
    "boxes",
    "average_precision",
    "coco_precision",
}
RUNTIME |= {"__init__"}
LOADING = {
    "bbg.data.loader",
    "bbg.data.augment",
    "bbg.data.order",
    "bbg.data.transforms",
    "bbg.data.box_crops",
}  # of the room data, what feeds a training
VERBS = {"cli", "__main__"}
TORCH = ("torch", "torchvision", "lightning", "pytorch_lightning", "torchmetrics", "tensorboard")
LINES = 430  # a file holds one concept; beyond this length it hardly does


def module(path: Path) -> str:
    """`bbg.data.cifar` for src/bbg/data/cifar.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACKAGE.rglob("*.py")}


def room(name: str) -> str:
    """The file or folder directly below src/bbg that `name` belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(name: str, *, nested: bool = True) -> set[str]:
    """What the module `name` imports, but for type checking only; `nested`: inside functions too."""

    def skips(node: ast.AST) -> bool:
        if isinstance(node, ast.If):
            return getattr(node.test, "id", "") == "TYPE_CHECKING"
        return not nested and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)

    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    bodies = [part for node in ast.walk(tree) if skips(node) for part in node.body]
    skipped = {inner for part in bodies for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import; write it in full"
            # `from bbg.data import cifar` imports a module, `from bbg.errors import BbgError` a name of one.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES or full == "bbg._native" else str(node.module) for full in whole}
    return found - {name}


def of_the_package(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "bbg"}


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    assert {room(name) for name in MODULES} | {"_native", "recipes"} == set(FLOORS)
    assert all(list(PACKAGE.glob(f"{name}*")) for name in FLOORS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_from_lower_floors_or_its_own_room(name: str) -> None:
    own = FLOORS[room(name)]
    others = {other: FLOORS[room(other)] for other in of_the_package(imports(name)) if room(other) != room(name)}
    assert not {other: floor for other, floor in others.items() if floor >= own}, f"{name} is on floor {own}"


def test_imports_have_no_cycle() -> None:
    graphlib.TopologicalSorter({name: of_the_package(imports(name)) for name in MODULES}).prepare()


RUNTIME_MODULES = sorted(
    name for name in MODULES if room(name) in RUNTIME | VERBS and room(name) != "__main__" and name not in LOADING
)


@pytest.mark.parametrize("name", RUNTIME_MODULES)
def test_a_room_of_the_runtime_imports_nothing_that_needs_torch(name: str) -> None:
    """Neither torch itself nor a room that may import it; a verb may, inside its function."""
    found = imports(name, nested=room(name) in RUNTIME)
    assert not {other for other in found if other.split(".")[0] in TORCH}
    assert {room(other) for other in of_the_package(found)} <= RUNTIME | (VERBS if room(name) in VERBS else set())


def test_the_runtime_works_without_torch() -> None:
    """Torch is made impossible to import, so that whoever asks for it fails."""
    code = f"""
import sys
sys.modules["torch"] = None
for name in {RUNTIME_MODULES}:
    __import__(name)
import bbg
assert bbg.load and bbg.Engine and bbg.Preprocess and bbg.zoo
try:
    bbg.create
except bbg.BbgError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    advice = "pip install torch torchvision lightning-fabric matplotlib"
    assert done.stdout == f"bbg.create needs torch, which is not installed; run {advice}\n"


def test_the_runtime_does_not_load_torch() -> None:
    code = f"import sys\nfor name in {RUNTIME_MODULES}: __import__(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_rooms_and_functions_have_names_of_their_own() -> None:
    """Importing a room, or any module in it, hides no public function."""
    pytest.importorskip("torch")
    code = "import bbg.conversion.trace as t, bbg.conversion as c, bbg; print(bbg.convert is c.convert, t.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True bbg.conversion.trace\n"


def test_every_public_name_is_found() -> None:
    assert set(bbg.__all__) == set(dir(bbg)) == {"BbgError", "__version__", *bbg._LAZY}


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bbg.nothing  # noqa: B018
    assert not hasattr(bbg, "os")


def test_no_file_is_long() -> None:
    files = [f for folder in ("src", "native", "tests") for f in (ROOT / folder).rglob("*")]
    sources = [f for f in files if f.suffix in {".py", ".pyi", ".cpp", ".h", ".inl"}]
    long = {str(f.relative_to(ROOT)): n for f in sources if (n := len(f.read_text().splitlines())) > LINES}
    assert len(sources) > 20
    assert not long


def test_the_zoo_names_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bbg.zoo import listing

    for name in ("resnet20-cifar10", "vgg-cifar10"):
        (tmp_path / f"{name}.bbg").write_bytes(b"")
        (tmp_path / f"{name}.md").write_text(f"# {name}")
    monkeypatch.setattr(listing, "FOLDER", tmp_path)
    assert bbg.zoo.names() == ["resnet20-cifar10", "vgg-cifar10"]
    assert bbg.zoo.path("vgg-cifar10") == tmp_path / "vgg-cifar10.bbg"
    assert bbg.zoo.card("vgg-cifar10") == "# vgg-cifar10"
    message = "unknown model 'resnet20'; the zoo has .*did you mean 'resnet20-cifar10'"
    with pytest.raises(BbgError, match=message):
        bbg.zoo.path("resnet20")
    with pytest.raises(BbgError, match="unknown model"):
        bbg.zoo.card("../zoo/vgg-cifar10")


def test_every_model_of_the_zoo_is_sound_and_has_a_card() -> None:
    from bbg.graph.file import read

    for name in bbg.zoo.names():
        assert name in bbg.zoo.card(name)
        assert read(bbg.zoo.path(name)).labels
