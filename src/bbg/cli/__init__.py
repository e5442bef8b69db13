"""The command `bbg`: every verb mirrors a call of the library.

Verbs import what they need when they run, so `bbg predict` starts in a tenth of a second and never imports torch.
Whatever a user can get wrong is one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bbg import __version__
from bbg.cli import learn, run
from bbg.errors import BbgError

app = typer.Typer(help="Train convolutional networks 1 bit wide and run them at 1 bit.", no_args_is_help=True,
                  add_completion=False, pretty_exceptions_enable=False)  # fmt: skip

for verb in (learn.train, learn.eval, learn.convert, run.predict, run.bench, run.inspect, run.zoo):
    app.command()(verb)


def _version(asked: bool) -> None:
    if asked:
        print(f"bbg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """What stands before the verb."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line `arguments` (None: those of the process) and exit with its status: 0, or 2 for bad input."""
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except BbgError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(error.format_message())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bbg"):
            raise
        _fail(f"this verb needs {error.name}, which is not installed; run pip install 'bbg[train]'")
    except (KeyboardInterrupt, typer.Abort):
        print("bbg: interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print("bbg:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
