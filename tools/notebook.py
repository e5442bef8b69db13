"""Run the notebooks of docs/guides, and save them with what their cells print and show.

    python tools/notebook.py

A notebook runs in an empty folder, so it makes or brings all that it needs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "guides").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """The notebook at `path` after all its cells ran in `folder`, in the interpreter that runs this.

    Raises nbclient's CellExecutionError, with the traceback, for a cell that fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    # "python3" without a kernel installed under that name is the interpreter that runs this.
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"].pop("image/jpeg", None)  # Pillow gives both
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    """The command line."""
    import nbformat

    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)
        print(path)


if __name__ == "__main__":
    main()
