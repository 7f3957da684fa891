"""How a script under `accelerate launch` begins and ends: one line for an error, and no process leaves the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import PartialState

from .errors import MLCAKError

Result = TypeVar("Result")


def run_script(main: Callable[[], Result]) -> Result:
    """Run the main function of a script, in one process or in several.

    Several processes wait for each other and close their connections before they end: one whose connections are still
    open while the interpreter shuts down may be aborted, and the launcher then calls the whole run a failure.

    Args:
        main: what the script does.

    Returns:
        What it returns.

    Raises:
        SystemExit: with one line, for an error that a person can mend.
    """
    try:
        result = main()
    except MLCAKError as error:
        raise SystemExit(f"error: {error}") from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()
    return result
