"""`python -m mlcak_hf` is the `mlcak` command."""

from __future__ import annotations

from .cli.main import main

main()
