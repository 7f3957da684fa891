"""The `mlcak` command and its entry point.

The package's own modules are imported inside the commands, so that `--help` and usage errors do not wait for torch.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import MLCAKError
from .card import card
from .inspect import inspect
from .merge import merge
from .phantom import phantom
from .predict import predict
from .prepare import prepare
from .push import push
from .terminal import print_error

app = typer.Typer(
    name="mlcak",
    help="Low-resolution chest X-ray classification (MLCAK). Research use only: not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich doubles the time that help and usage errors take.
)
for command in (inspect, prepare, merge, phantom, predict, card, push):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mlcak {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command; print an error that the user can fix as one line on standard error."""
    try:
        app()
    except MLCAKError as error:
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
