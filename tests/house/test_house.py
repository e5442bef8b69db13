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

FLOORS = {
    "errors": 1, "_version": 1, "recipes": 1, "_native": 1,
    "files": 2, "heads": 2, "image": 2, "tables": 2, "cpu": 2, "recipe": 2, "methods": 2,
    "zoo": 3, "graph": 3, "layers": 3, "data": 3,
    "engine": 4, "tracing": 4, "models": 4, "analysis": 4,
    "binarization": 5,
    "conversion": 6,
    "training": 7,
    "comparison": 8,
    "cli": 10, "__main__": 11,
}  # fmt: skip
RUNTIME = [
    "bbg",
    *(
        f"bbg.{room}"
        for room in ("errors", "files", "image", "heads", "cpu", "graph", "graph.file", "engine", "zoo", "cli")
    ),
]
LINES = 420


def module(path: Path) -> str:
    """`bbg.data.cifar` for src/bbg/data/cifar.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACKAGE.rglob("*.py")}


def rank(name: str) -> int:
    """The rank of a module's file or folder directly below src/bbg."""
    room = name.split(".")[1]
    assert room in FLOORS, f"{name} has no floor: give {room!r} one here"
    return FLOORS[room]


def imports(name: str) -> set[str]:
    """The modules of this package that `name` imports, wherever in the file, but not for type checking only."""
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # `from bbg.data import cifar` imports a module, `from bbg.errors import BbgError` a name of one.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES or full == "bbg._native" else str(node.module) for full in whole}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{name} has a relative import; write it in full")
    return {other for other in found if other.startswith("bbg.") and other != name}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"bbg"}))
def test_a_module_imports_from_no_higher_rank(name: str) -> None:
    higher = {other: rank(other) for other in imports(name) if rank(other) > rank(name)}
    assert not higher, f"{name} (rank {rank(name)}) imports {higher}"


def test_imports_have_no_cycle() -> None:
    graphlib.TopologicalSorter({name: imports(name) for name in MODULES if name != "bbg"}).prepare()


def test_the_runtime_works_without_torch() -> None:
    """Torch is made impossible to import, so that whoever asks for it fails."""
    code = f"""
import sys
sys.modules["torch"] = None
for name in {RUNTIME}:
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
    assert done.stdout == "bbg.create needs torch, which is not installed; run pip install 'bbg[train]'\n"


def test_the_runtime_does_not_load_torch() -> None:
    code = f"import sys\nfor name in {RUNTIME}: __import__(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_rooms_and_functions_have_names_of_their_own() -> None:
    """Importing a room, or any module in it, hides no public function."""
    pytest.importorskip("torch")
    code = "import bbg.conversion.trace as t, bbg.conversion as c, bbg; print(bbg.convert is c.convert, t.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True bbg.conversion.trace\n"


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
    for name in ("resnet20-cifar10", "vgg-cifar10"):
        (tmp_path / f"{name}.bbg").write_bytes(b"")
        (tmp_path / f"{name}.md").write_text(f"# {name}")
    monkeypatch.setattr(bbg.zoo, "FOLDER", tmp_path)
    assert bbg.zoo.names() == ["resnet20-cifar10", "vgg-cifar10"]
    assert bbg.zoo.path("vgg-cifar10") == tmp_path / "vgg-cifar10.bbg"
    assert bbg.zoo.card("vgg-cifar10") == "# vgg-cifar10"
    message = "unknown model 'resnet20'; the zoo has .*; did you mean 'resnet20-cifar10'"
    with pytest.raises(BbgError, match=message):
        bbg.zoo.path("resnet20")
    with pytest.raises(BbgError, match="unknown model"):
        bbg.zoo.card("../zoo/vgg-cifar10")


def test_every_model_of_the_zoo_is_sound_and_has_a_card() -> None:
    from bbg.graph.file import read

    for name in bbg.zoo.names():
        assert name in bbg.zoo.card(name)
        assert read(bbg.zoo.path(name)).labels
