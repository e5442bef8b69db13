"""Every block of code in the README and the guides runs as it is printed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from support.pages import CHANGES, Session, blocks, furnish, pages, statements
from support.paths import ROOT

import bbg
from bbg.recipe import Recipe

# Statements that are not run here, by page, each with the reason; none may be listed in vain.
ELSEWHERE = "it sets up an environment: tests/house/test_install.py runs it"
MANY = "it starts more processes than a small machine has cores: tests/training/test_launch.py starts two"
WIDE = "bbg train cifar10_resnet20 --data DIR --out runs/wide"
NODE = f"{WIDE} --processes 8 --nodes 2 --node-rank {{}} --master 10.0.0.1:29500"
NOT_RUN = {
    "README.md": {
        "make demo": ELSEWHERE,
        "make test": "it is all tests, this one too",
        "source .venv/bin/activate": ELSEWHERE,
        "make wheel": ELSEWHERE,
        "pip install dist/bbg-*.whl": ELSEWHERE,
        "pip install torch torchvision lightning-fabric matplotlib": ELSEWHERE,
    },
    "processes.md": {
        "bbg train cifar10_resnet20 --data DIR --processes 4": MANY,
        "bbg train cifar10_resnet20 --data DIR --processes 4 --set sync_bn=true": MANY,
        **{NODE.format(number): "it waits for another machine" for number in (0, 1)},
        f"torchrun --nproc-per-node 8 --max-restarts 3 -m {WIDE}": MANY,
    },
    "ray.md": {
        "bbg predict --ray photos --model net.bbg --out answers --address auto": "it asks for a cluster: "
        "tests/scoring/test_ray.py makes one"
    },
    "deploy.md": {"uvicorn app:app --workers 2": "it serves until it is stopped; the block before it calls the app"},
}
# Blocks that are no commands: pictures of folders, and what a container is built of.
SHOWN = {"text", "dockerfile"}
# Packages that a page speaks of and that no other one needs: `make test` installs them.
ASKS_FOR = {"deploy.md": ("fastapi", "httpx", "multipart"), "ray.md": ("ray", "pyarrow")}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_all_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for package in ASKS_FOR.get(page.name, ()):
        pytest.importorskip(package)
    find = Recipe.find
    monkeypatch.setattr(Recipe, "find", staticmethod(lambda given: find(given).changed(CHANGES)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as for `python` and `python -m` in that folder
    furnish(tmp_path)
    left_out = dict(NOT_RUN.get(page.name, {}))
    session = Session(tmp_path)
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            session.python(block)
        elif block.language == "toml":
            Recipe.from_dict(tomllib.loads(block.text))
        elif block.language == "sh":
            for statement in statements(block.text):
                if left_out.pop(re.sub(r"\s+#.*", "", statement).strip(), None) is None:
                    session.shell(statement)
        else:
            assert block.language in SHOWN, (
                f"{where}: say what the block is: sh, python, toml, {', '.join(sorted(SHOWN))}"
            )
    assert not left_out, f"listed, but not on the page: {left_out}"
    if page.name == "README.md":
        out = capsys.readouterr().out
        assert "of the multiply-accumulates outside the first and the last layer run at 1 bit" in out
        assert (tmp_path / "own.bbg").stat().st_size < 3_000_000  # 6.1 MB in float32
        assert session.namespace["logits"].shape == (8, 5)
        assert bbg.load(tmp_path / "photos.bbg").labels == ("cat", "dog")


def test_a_network_and_data_of_ones_own_take_ten_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for section, language in (("Your own network", "python"), ("Your own data", "sh")):
        part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        (code,) = re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)
        assert len(code.splitlines()) <= 10


def test_pretrained_weights_become_bits_in_thirty_lines() -> None:
    text = (ROOT / "docs" / "guides" / "pretrained.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text.partition("\n## On the command line\n")[0], re.DOTALL)
    assert len(code) == 1
    assert len(code[0].splitlines()) <= 30
