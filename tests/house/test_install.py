"""The README followed line by line in a real shell: in a clone, and from a wheel where no repository is at hand.

Nothing is downloaded: the environments see the packages of the one that runs the tests, but not its `bbg`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.packages import installed
from support.pages import CHANGES, SHORT, blocks, furnish, statements
from support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not installed("torch", "pip", "scikit-build-core", "nanobind", "cmake"),
        reason="what builds the package is not installed",
    ),
]

RUNTIME = ("numpy", "numpy.libs", "safetensors", "PIL", "pillow.libs", "rich", "markdown_it", "mdurl", "pygments")
# What is left out of the README in either place, with the reason.
INSTALLS = "pip install torch torchvision lightning-fabric matplotlib"  # they are there: the environment sees them
NO_ZIG = {"make wheel", "pip install dist/bbg-*.whl"} if not installed("ziglang") else set()
IN_A_CLONE = {"make test", *NO_ZIG}  # all tests; zig is a package of 90 MB
WITHOUT_ONE = {
    "make demo",
    "make test",
    "make wheel",
    "pip install dist/bbg-*.whl",
}  # the wheel is made and installed above


def environment(folder: Path, names: tuple[str, ...] | None = None) -> None:
    """A virtual environment that sees the installed packages (those of `names`), but no bbg."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = folder / "packages"
    packages.mkdir()
    wanted = None if names is None else {name.lower() for name in (*names, "pillow", "markdown_it_py", "pip")}
    for place in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        taken = {package(item) for item in packages.iterdir()}
        for item in place.iterdir():
            name = package(item)
            own = name.startswith(("bbg", "_bbg", "__editable__")) or item.suffix == ".pth"
            if not own and name not in taken and (wanted is None or name in wanted):
                (packages / item.name).symlink_to(item)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(f"{packages}\n")
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {folder}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)


def package(item: Path) -> str:
    """`pillow` for `pillow-13.0.0.dist-info`; the name of a module or a folder as it is."""
    return re.split(r"-\d", item.name)[0].lower()


def shell(script: str, folder: Path) -> str:
    """What bash prints of `script`, run in `folder` without an index; a failure fails the test."""
    functions = "".join(f'{verb}) set -- "$@" {" ".join(more)};;\n' for verb, more in SHORT.items())
    start = f'set -e\nbbg() {{\ncase "$1" in\n{functions}esac\ncommand bbg "$@"\n}}\nPS4="line: "\n'
    kept = {key: os.environ[key] for key in ("HOME", "PATH", "TMPDIR", "LANG") if key in os.environ}
    settings = {**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", start + script], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done.stdout


def readme(left_out: set[str], folder: Path) -> str:
    """The README's code as one script, its Python as files of `folder` that run in their place."""
    rest, lines = set(left_out), []
    for number, block in enumerate(blocks(ROOT / "README.md")):
        if block.language == "python":
            short = (
                f"from bbg.recipe import Recipe as R\nfind = R.find\nR.find = lambda g: find(g).changed({CHANGES})\n"
            )
            (folder / f"block{number}.py").write_text(short + block.text)
            lines.append(f"python block{number}.py")
        else:
            for statement in statements(block.text):
                plain = re.sub(r"\s+#.*", "", statement).strip()
                if plain not in left_out:
                    lines += [f"echo '> {plain.splitlines()[0]}'", statement]
                rest.discard(plain)
    assert not rest, f"not in the README any more: {rest}"
    return "\n".join(lines)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit, with an environment where torch is installed already."""
    folder = tmp_path_factory.mktemp("clone") / "bbg"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    environment(folder / ".venv")
    for stamp in ("torch", *(["release"] if not NO_ZIG else [])):
        (folder / ".venv" / stamp).touch()
    return folder


def test_the_readme_in_a_clone(clone: Path) -> None:
    furnish(clone)
    printed = shell(readme({*IN_A_CLONE, INSTALLS}, clone), clone)
    assert "360 held-out digits, one thread" in printed
    assert (clone / "runs" / "demo" / "digits.png").exists()
    assert (clone / "photos.bbg").exists()


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel of the clone, by the compiler that is here."""
    if not (clone / ".venv" / "ready").exists():
        shell("make .venv/ready", clone)
    out = clone.parent / "wheels"
    shell(f".venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir {out} .", clone)
    (made,) = out.glob("bbg-*.whl")
    return made


def test_the_readme_from_a_wheel_with_no_repository_at_hand(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    environment(folder / ".venv")
    furnish(folder)
    (folder / "photo.jpg").unlink()  # the first line makes it
    shell(f".venv/bin/pip install {wheel}", folder)
    printed = shell(readme({*WITHOUT_ONE, INSTALLS}, folder), folder)
    assert "ship" in printed
    assert (folder / "photos.bbg").exists()
    where = shell(".venv/bin/python -c 'import bbg; print(bbg.__file__)'", folder)
    assert where.startswith(str(folder))


def test_the_runtime_from_a_wheel_without_torch(wheel: Path, tmp_path: Path) -> None:
    """With numpy, safetensors, pillow and rich alone; what needs torch says which packages to install."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment(folder / ".venv", RUNTIME)
    shell(f".venv/bin/pip install {wheel}", folder)
    printed = shell(
        "source .venv/bin/activate\nbbg zoo --sample photo.jpg\nbbg predict photo.jpg\nbbg inspect resnet20-cifar10\n"
        "bbg bench resnet20-cifar10\nbbg recipe digits_resnet8\nbbg zoo\n"
        "python -c 'import torch' 2> /dev/null && exit 1\nbbg train digits_resnet8 2>&1 || echo status $?",
        folder,
    )
    assert "ship" in printed
    advice = re.search(r"needs torch, which is not installed; run pip install (.*)\nstatus 2\n$", printed)
    assert advice is not None
    assert set(advice[1].split()) == {"torch", "torchvision", "lightning-fabric", "matplotlib"}
    shutil.rmtree(folder)
