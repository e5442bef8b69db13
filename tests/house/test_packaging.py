"""The package's facts agree with each other: one version, extras that exist, lowest versions that can be installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from support.paths import ROOT

from bbg import __version__, errors

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "requirements.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_citation_has_the_version_of_the_package() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


def test_the_makefile_names_extras_that_exist() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = re.findall(r"^\t\$\(REQUIREMENTS\)(?: --oldest)? ([a-z ]+) >", text, re.MULTILINE)
    asked += [extras.replace(",", " ") for extras in re.findall(r"\.\[([a-z,]+)\]", text)]
    assert len(asked) >= 5
    assert {extra for line in asked for extra in line.split()} == set(EXTRAS)


def test_an_extra_is_listed_a_package_a_line() -> None:
    assert requirements("dev", "peers").stdout.splitlines() == EXTRAS["dev"] + EXTRAS["peers"]
    refused = requirements("nothing")
    assert refused.returncode != 0
    assert "no extra nothing; pyproject.toml has train" in refused.stderr


def test_the_oldest_versions_are_pinned() -> None:
    lines = requirements("--oldest", *EXTRAS).stdout.splitlines()
    admitted = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]
    assert lines == [line.replace(">=", "==") for line in admitted]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines)


def test_the_advice_to_install_names_the_packages_of_the_extras() -> None:
    for extra, packages in errors.EXTRAS.items():
        assert packages == tuple(re.split("[>=]", line)[0] for line in EXTRAS[extra])
    for module, extra in (
        ("torch", "train"),
        ("lightning_fabric", "train"),
        ("tensorboard", "tensorboard"),
        ("cv2", "video"),
        ("ray", "ray"),
    ):
        assert str(errors.not_installed("this", module)).endswith(f"run pip install {' '.join(errors.EXTRAS[extra])}")
    for module, package in {"nothing": "nothing", "PIL.Image": "pillow", "cv2": "opencv-python-headless"}.items():
        assert str(errors.not_installed("this", module)).endswith(f"run pip install {package}")


def test_no_advice_asks_pip_for_a_release_that_there_may_not_be() -> None:
    """`pip install bbg` finds nothing for whoever holds a wheel file; a message of the package must not say it."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"pip install\W*bbg\b", path.read_text(encoding="utf-8")), path


def test_the_build_needs_what_the_extra_for_building_names() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert set(build) <= set(EXTRAS["build"])


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_the_pinned_torch_is_admitted(package: str) -> None:
    pinned = re.search(rf"\b{package}==([\d.]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    (lowest,) = [line.partition(">=")[2] for line in EXTRAS["train"] if line.startswith(f"{package}>")]
    assert pinned is not None
    assert [int(n) for n in pinned[1].split(".")] >= [int(n) for n in lowest.split(".")]
