"""Try the options that change the batches of several processes, and save every refusal (see test_processes)."""

import sys
from functools import partial

import torch
from torch.utils.data import IterableDataset
from toys import make_trainer, toy_rows

from mlcak_hf.errors import MLCAKError
from mlcak_hf.script import run_script


class Stream(IterableDataset):
    """Rows without a length, which accelerate would dispatch from one process."""

    def __iter__(self):
        return iter(toy_rows(4))


CHOICES = {
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "split_batches": {"accelerator_config": {"split_batches": True}},
    "dispatch_batches": {"accelerator_config": {"dispatch_batches": True}},
    "even_batches": {"accelerator_config": {"even_batches": False}},
    "length": {"rows": Stream(), "max_steps": 1},
}


def main(output: str) -> None:
    messages = {}
    for name, choices in CHOICES.items():
        try:
            trainer = make_trainer(f"{output}-run", **choices)
            messages[name] = f"not refused by {trainer.args.world_size} processes"
        except MLCAKError as error:
            messages[name] = str(error)
    torch.save(messages, output)


if __name__ == "__main__":
    run_script(partial(main, sys.argv[1]))
