"""The README's examples of a user's own network and data run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image
from support.paths import ROOT

from cases.images import photographs

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(section: str, language: str) -> str:
    """The code of that language in the section of that title."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return code


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )


def test_a_network_of_ones_own_goes_through_in_ten_lines(tmp_path: Path) -> None:
    code = block("Your own network", "python")
    assert len(code.splitlines()) <= 10
    done = run([sys.executable, "-c", f"{code}\nassert logits.shape == (8, 5)"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of the multiply-accumulates outside the first and the last layer run at 1 bit" in done.stdout
    assert (tmp_path / "own.bbg").stat().st_size < 3_000_000  # 6.1 MB in float32


def test_data_of_ones_own_go_through_in_ten_lines(tmp_path: Path) -> None:
    """Images of two scenes, a class each."""
    pictures = photographs(40, 8)
    for part in ("train", "test"):
        for name, own in (("cat", pictures[:4]), ("dog", pictures[4:])):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(16):
                picture = Image.fromarray(own[i % 4]).rotate(3 * (i // 4))
                picture.save(folder / f"{i}.jpg")
    code = block("Your own data", "sh")
    assert len(code.splitlines()) <= 10
    done = run(["sh", "-e", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "accuracy: 1" in done.stdout
    assert re.search(r"\bcat\b.*\d", done.stdout)
    assert (tmp_path / "photos.bbg").exists()
