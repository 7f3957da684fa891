"""The `mlcak` command and its entry point.

The package's own modules are imported inside the commands, so that `--help` and usage errors do not wait for torch.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from .. import __version__
from ..errors import MLCAKError
from .calibrate import calibrate
from .evaluate import check, compare_models, evaluate
from .export import export
from .phantom import phantom
from .predict import predict
from .prepare import inspect, merge, prepare
from .publish import card, push
from .serve import serve_model, watch


class _Commands(typer.core.TyperGroup):
    def get_help_option(self, ctx: Any) -> Any:
        """Without a default, typer imports pydantic to convert the missing value, which doubles the time of help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    name="mlcak",
    cls=_Commands,
    help="Low-resolution chest X-ray classification (MLCAK). Research use only: not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich doubles the time that help and usage errors take.
)
for command in (inspect, prepare, merge, phantom, predict, watch, evaluate, calibrate, check, card, export, push):
    app.command(no_args_is_help=True)(command)
app.command("serve", no_args_is_help=True)(serve_model)
# The script's own parser reads its options and prints its help.
_AS_SCRIPT = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command("compare", context_settings=_AS_SCRIPT, add_help_option=False)(compare_models)


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need not be valid text
    try:
        app()
    except MLCAKError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
