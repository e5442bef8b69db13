"""The release script: one version everywhere, wheels that hold what they should, a README that stands alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.packages import installed
from support.paths import ROOT

from bbg import __version__
from tools import release

PLACES = ("src/bbg/_version.py", "CITATION.cff", "CHANGELOG.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the files that state the version, committed."""
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    release.git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def commit(root: Path) -> None:
    release.git(root, "add", "--all")
    name = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    release.git(root, *name, "commit", "--quiet", "--message", "as it is")


def test_all_places_have_the_version_of_the_package() -> None:
    assert release.check() == __version__


@pytest.mark.parametrize("place", PLACES)
def test_a_place_with_another_version_is_named(copy: Path, place: str) -> None:
    text = (copy / place).read_text(encoding="utf-8")
    (copy / place).write_text(text.replace(__version__, "7.8.9"), encoding="utf-8")
    with pytest.raises(SystemExit, match=rf"7\.8\.9 in {place}"):
        release.check(root=copy)


def test_a_release_is_dated_committed_and_tagged_and_the_next_one_opens(copy: Path) -> None:
    changes = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="'unreleased'"):
        release.check(tag=True, root=copy)
    release.set_version("1.2.3", "2031-02-03", copy)
    assert "\n## 1.2.3 - 2031-02-03\n" in (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="commit them first"):
        release.check(tag=True, root=copy)
    commit(copy)
    with pytest.raises(SystemExit, match=r"no tag v1\.2\.3"):
        release.check(tag=True, root=copy)
    release.git(copy, "tag", "v1.2.3")
    assert release.check(tag=True, root=copy) == "1.2.3"
    release.set_version("1.3.0", None, copy)
    assert release.check(root=copy) == "1.3.0"
    after = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    opened = "## 1.3.0 - unreleased\n\n## 1.2.3 - 2031-02-03"
    assert after == changes.replace(f"## {__version__} - unreleased", opened)


@pytest.mark.parametrize(("version", "date"), [("1.2", None), ("v1.2.3", None), ("1.2.3", "3.2.2031")])
def test_odd_versions_and_dates_are_refused(copy: Path, version: str, date: str | None) -> None:
    with pytest.raises(SystemExit, match=r"is no (version|date)"):
        release.set_version(version, date, copy)
    assert release.check(root=copy) == __version__


def test_a_readme_alone_has_no_dead_link() -> None:
    text = "![a](docs/a.svg)\n\n[b](docs/b.md#c) [d](#d) [e](https://e.org)"
    assert release.standing_alone(text, None, "v1") == "b [d](#d) [e](https://e.org)"
    assert release.standing_alone(text, "https://r.org/r", "v1") == (
        "![a](https://r.org/r/raw/v1/docs/a.svg)\n\n[b](https://r.org/r/blob/v1/docs/b.md#c) [d](#d) [e](https://e.org)"
    )
    whole = release.standing_alone((ROOT / "README.md").read_text(encoding="utf-8"), None, "v1")
    assert not re.search(r"\]\((?!https?://|#)", whole)


def files_of_the_package() -> list[str]:
    """What git knows of src, as paths inside a wheel, with what a build adds."""
    known = release.git(ROOT, "ls-files", "src/bbg").splitlines()
    info = f"bbg-{__version__}.dist-info"
    built = ["bbg/_native.abi3.so", *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt"))]
    return (
        [name.removeprefix("src/") for name in known]
        + built
        + [f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICES")]
    )


def test_the_files_of_the_package_are_those_of_a_wheel() -> None:
    names = files_of_the_package()
    assert release.odd_contents(names) == []
    for foreign in ("bbg/tests/test_a.py.bak", "tests/test_a.py", "native/api.cpp", "bbg/zoo/photo.png", "bbg/.env"):
        assert release.odd_contents([*names, foreign]) == [f"{foreign} does not belong in it"]
    for needed in ("py.typed", "digits.npz", ".so", "LICENSE", "NOTICES", ".bbg", "ship.jpg"):
        (gap,) = release.odd_contents([name for name in names if not name.endswith(needed)])
        assert gap.startswith("nothing like")


def test_the_metadata_name_authors_and_links() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == [{"name": "The bbg authors"}]
    assert project["urls"]["Paper"].endswith("1909.12117")


@pytest.mark.slow
@pytest.mark.skipif(
    not installed("ziglang", "auditwheel", "scikit-build-core", "pip"),
    reason="the packages of the extra release are not installed; make release installs them",
)
@pytest.mark.parametrize("architecture", release.ARCHITECTURES)
def test_the_wheel_of_this_python_is_manylinux(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked by auditwheel while it is made; the compiled module asks for no newer glibc, and is of that processor."""
    monkeypatch.setattr(release, "DIST", tmp_path)
    wheel = release.build_wheel(sys.executable, architecture, release.staged())
    assert f"manylinux_2_17_{architecture}" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (module,) = [name for name in archive.namelist() if name.endswith(".so")]
        binary = archive.read(module)
    assert int.from_bytes(binary[18:20], "little") == {"x86_64": 62, "aarch64": 183}[architecture]  # e_machine of ELF
    asked = {tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_(\d+(?:\.\d+)+)", binary)}
    assert asked
    assert max(asked) <= (2, 17)
    if architecture == "x86_64":
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "installed")
        code = "import bbg; print(bbg.load('resnet20-cifar10').predict(str(bbg.zoo.sample()))[0].label, bbg.__file__)"
        path = [str(tmp_path / "installed"), *sys.path]
        done = subprocess.run(  # without the module site: an editable install would find its own bbg first
            [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout.split() == ["ship", str(tmp_path / "installed" / "bbg" / "__init__.py")], done.stderr
