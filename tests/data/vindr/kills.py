"""Run in a process of its own, to be killed: prepare a folder in shards of three images.

Usage: python kills.py DATA_DIR OUTPUT_DIR NUM_PROC
"""

import sys

from mlcak_hf.data import prepare_vindr_cxr
from mlcak_hf.data.vindr import plan

if __name__ == "__main__":  # the worker processes import this file as well
    plan.IMAGES_PER_SHARD = 3
    prepare_vindr_cxr(sys.argv[1], sys.argv[2], num_proc=int(sys.argv[3]), overwrite=True, size_px=64)
