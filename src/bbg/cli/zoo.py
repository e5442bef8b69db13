"""The verb zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, new_file, verb


@verb(
    argument("name", nargs="?", metavar="NAME", help="show the card of this model instead"),
    argument("--sample", type=new_file, metavar="FILE.jpg", help="write a picture to try `bbg predict` on"),
    JSON,
)
def zoo(name: str | None, sample: Path | None, json: Path | None) -> None:
    """List the models that come with bbg, show the card of one, or write the sample picture."""
    import bbg.zoo

    if sample is not None:
        from bbg.files import write_bytes

        write_bytes(sample, bbg.zoo.sample().read_bytes())
    if name is not None and json is None:
        print(bbg.zoo.card(name), end="")
    elif name is not None:
        show({"name": name, "card": bbg.zoo.card(name)}, json)
    elif sample is None:
        show({"zoo": [_row(each) for each in bbg.zoo.names()]}, json)


def _row(name: str) -> dict[str, Any]:
    import bbg.zoo
    from bbg.graph.file import read

    path = bbg.zoo.path(name)
    facts = read(path).provenance
    size = path.stat().st_size
    return {"name": name, "bytes": size, "data": facts.get("dataset"), "accuracy": facts.get("accuracy")}
