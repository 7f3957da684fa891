"""Run in a process of its own, to be killed: a `mlcak` command that reads slowly, in shards of three images.

Usage: python kills.py prepare DATA_DIR OUTPUT_DIR ...
"""

import time
from typing import Any

from mlcak_hf.cli.main import main
from mlcak_hf.preparation.shards import plan, shard_files

_image_rows = shard_files.image_rows


def _slow_image_rows(*args: Any) -> Any:
    """An image takes a tenth of a second, so that a kill interrupts the work even on a fast machine."""
    time.sleep(0.1)
    return _image_rows(*args)


shard_files.image_rows = _slow_image_rows  # in every process: the workers import this file as well

if __name__ == "__main__":
    plan.IMAGES_PER_SHARD = 3
    main()
