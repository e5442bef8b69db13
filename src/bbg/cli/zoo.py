"""The verb zoo."""

from __future__ import annotations

from pathlib import Path

from bbg.cli.output import show
from bbg.cli.parser import JSON, verb


@verb(JSON)
def zoo(json: Path | None) -> None:
    """List the models that come with bbg."""
    import bbg.zoo
    from bbg.graph.file import read

    rows = []
    for name in bbg.zoo.names():
        path = bbg.zoo.path(name)
        facts = read(path).provenance
        rows.append(
            {
                "name": name,
                "bytes": path.stat().st_size,
                "data": facts.get("dataset"),
                "accuracy": facts.get("accuracy"),
            }
        )
    show({"zoo": rows}, json)


def find(model: str) -> Path:
    """The packed file that `model` names: a path, or a model of the zoo; BbgError where it is neither."""
    from bbg import zoo

    return zoo.resolve(model)
