"""The verb zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbg.cli.output import show, tell
from bbg.cli.parser import JSON, argument, new_file, verb
from bbg.errors import BbgError, visible
from bbg.log import LOGGER


@verb(
    argument(
        "words",
        nargs="*",
        metavar="MODEL",
        help="a model, whose card is shown; or `add` and a packed file or its address",
    ),
    argument("--sha256", metavar="HEX", help="the checksum that a model to add must have; needed for one of the web"),
    argument("--name", metavar="NAME", help="what to call a model to add; default: as its file is called"),
    argument("--sample", type=new_file, metavar="FILE.jpg", help="write a picture to try `bbg predict` on"),
    JSON,
)
def zoo(words: list[str], sha256: str | None, name: str | None, sample: Path | None, json: Path | None) -> None:
    """List the models of the zoo, show the card of one, add one, or write the sample picture."""
    import bbg.zoo

    adds = words[:1] == ["add"]
    most = 2 if adds else 1
    if len(words) > most:
        raise BbgError(f"{words[most]!r} is one argument too many; see bbg zoo --help")
    if adds and len(words) < most:
        raise BbgError("zoo add takes a packed file or its address; give one, as in: bbg zoo add net.bbg")
    if not adds and (sha256 is not None or name is not None):
        raise BbgError("--sha256 and --name are of a model to add; give one, as in: bbg zoo add net.bbg --name mine")
    if sample is not None:
        from bbg.files import write_bytes

        write_bytes(sample, bbg.zoo.sample().read_bytes())
    if adds:
        kept = bbg.zoo.add(words[1], sha256, name)
        tell({"added": kept.stem, "file": str(kept)}, json)
    elif words and json is None:
        print("".join(f"{visible(line)}\n" for line in bbg.zoo.card(words[0]).splitlines()), end="")
    elif words:
        show({"name": words[0], "card": bbg.zoo.card(words[0])}, json)
    elif sample is None:
        show({"zoo": [_row(each) for each in bbg.zoo.names()]}, json)


def _row(name: str) -> dict[str, Any]:
    """What a table says of the model `name`."""
    import bbg.zoo
    from bbg.graph.file import read

    path = bbg.zoo.path(name)
    size: int | None = None
    try:
        facts = read(path).provenance
        size = path.stat().st_size
    except (BbgError, OSError) as error:  # one of those that were added; the others are still good
        LOGGER.warning("%s", error)
        facts = {}
    return {"name": name, "bytes": size, "data": facts.get("dataset"), "accuracy": facts.get("accuracy")}
