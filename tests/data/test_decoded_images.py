"""Images decoded once: the same pixels as decoded every time, kept for later runs, whole or not there."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from filelock import FileLock
from torch.utils.data import DataLoader

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.data import decoded_images as decoded_images_module
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import DatasetColumns, Targets
from mlcak_hf.data.decoded_images import decode_once
from mlcak_hf.data.sources import RadiographDataset
from mlcak_hf.data.training_data import DataArguments, TrainingData
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import DatasetError


def folders(parent) -> list:
    return [path for path in parent.iterdir() if path.is_dir()]


def processor(side: int = 28, **settings) -> MLCAKImageProcessor:
    return MLCAKImageProcessor(size={"height": side, "width": side}, **settings)


def stored(kind: str, seed: int) -> PIL.Image.Image:
    rng = np.random.default_rng(seed)
    if kind == "16 bits":
        return PIL.Image.fromarray(rng.integers(0, 65536, (64, 64)).astype(np.uint16))
    if kind == "colour":
        return PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    side = {"8 bits": (64, 64), "not square": (50, 64), "large": (300, 280)}[kind]
    return PIL.Image.fromarray(rng.integers(0, 256, side).astype(np.uint8))


def dataset_of(images: list) -> Dataset:
    columns = {"image": images, "label": [i % 2 for i in range(len(images))]}
    columns["image_id"] = [f"image-{i}" for i in range(len(images))]
    features = Features({"image": Image(), "label": Value("int64"), "image_id": Value("string")})
    return Dataset.from_dict(columns, features=features)


def radiographs(rows: Dataset, decoded_images=None) -> RadiographDataset:
    backbone = {"model_type": "vit", "image_size": 28, "patch_size": 4, "num_channels": 1}
    columns = DatasetColumns(findings=None, image_id="image_id")
    targets = Targets(MLCAKConfig(backbone_config=backbone, local_labels=[]), rows, columns)
    dataset = RadiographDataset(rows, targets)
    dataset.decoded_images = decoded_images
    return dataset


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "not square", "colour", "large"])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_a_view_of_a_decoded_image_is_the_view_of_its_image(tmp_path, kind, fit):
    rows = dataset_of([stored(kind, seed) for seed in range(3)])
    decoded_images = decode_once(rows, processor(fit=fit), folder=tmp_path)
    collator = MLCAKCollator(processor(28, fit=fit), processor(56, fit=fit), ViewParameters(), seed=4)
    slow, quick = radiographs(rows), radiographs(rows, decoded_images)
    expected, batch = (collator([rows_of[i] for i in range(3)]) for rows_of in (slow, quick))
    assert decoded_images.exact == (kind in ("8 bits", "16 bits") or (kind, fit) == ("not square", "pad"))
    for name in ("pixel_values", "teacher_pixel_values"):
        if decoded_images.exact:
            assert torch.equal(batch[name], expected[name])
        # Rounded to 16 bits; the processor's deviation is 0.25.
        torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=1e-4)
    if decoded_images.exact:
        evaluation = collator.for_evaluation()
        exact, again = (evaluation([rows_of[i] for i in range(3)])["pixel_values"] for rows_of in (slow, quick))
        assert torch.equal(exact, again)


def test_images_of_several_sizes_and_depths_lie_side_by_side(tmp_path):
    images = [stored("16 bits", 1), stored("8 bits", 2), stored("large", 3)]
    decoded_images = decode_once(dataset_of(images), processor(), folder=tmp_path)
    assert [(decoded_images[i].shape, decoded_images[i].dtype.name) for i in range(3)] == [
        ((64, 64), "uint16"), ((64, 64), "uint8"), ((256, 256), "uint16"),
    ]  # fmt: skip
    assert np.array_equal(decoded_images[1], np.asarray(images[1]))


def test_a_second_run_decodes_nothing_and_another_dataset_is_another_file(tmp_path, monkeypatch):
    rows = dataset_of([stored("8 bits", seed) for seed in range(4)])
    decode_once(rows, processor(), folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(decoded_images_module, "to_square", None)
        again = decode_once(rows, processor(56), folder=tmp_path)
    assert np.array_equal(again[3], np.asarray(stored("8 bits", 3)))
    for other_rows, other_processor in [
        (rows.select([2, 1]), processor()),
        (rows, processor(fit="squash")),
        (rows, processor(value_range=[0, 300])),
    ]:
        assert decode_once(other_rows, other_processor, folder=tmp_path).folder != again.folder
    assert len(folders(tmp_path)) == 4
    assert np.array_equal(decode_once(rows.select([2, 1]), processor(), folder=tmp_path)[0], again[2])


def test_what_was_not_finished_is_not_there(tmp_path, monkeypatch):
    rows = dataset_of([stored("8 bits", seed) for seed in range(4)])

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded_images_module, "_append", full_disk)
        with pytest.raises(DatasetError, match=r"No space left.*decode_once=false"):
            decode_once(rows, processor(), folder=tmp_path)
    assert not folders(tmp_path)
    assert np.array_equal(decode_once(rows, processor(), folder=tmp_path)[3], np.asarray(stored("8 bits", 3)))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_a_killed_process_left_is_removed(tmp_path):
    dataset_of([stored("8 bits", 0)]).save_to_disk(tmp_path / "rows")
    script = f"""
import os, signal
from datasets import load_from_disk
from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data import decoded_images
decoded_images._append = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
processor = MLCAKImageProcessor(size={{"height": 28, "width": 28}})
decoded_images.decode_once(load_from_disk({str(tmp_path / "rows")!r}), processor, folder={str(tmp_path / "cache")!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "cache").glob("*.unfinished"))
    decoded_images = decode_once(datasets.load_from_disk(tmp_path / "rows"), processor(), folder=tmp_path / "cache")
    assert np.array_equal(decoded_images[0], np.asarray(stored("8 bits", 0)))
    assert folders(tmp_path / "cache") == [decoded_images.folder]


def test_a_second_process_waits_for_the_first(tmp_path):
    rows = dataset_of([stored("8 bits", 0)])
    folder = tmp_path / decode_once(rows, processor(), folder=tmp_path / "first").folder.name
    with ThreadPoolExecutor() as pool:
        with FileLock(folder.with_suffix(".lock")):
            second = pool.submit(decode_once, rows, processor(), folder=tmp_path)
            time.sleep(0.3)
            assert not second.done()
            shutil.copytree(tmp_path / "first" / folder.name, folder)
        assert second.result().folder == folder


def test_bad_rows_and_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"row 1 cannot be decoded: .*NoneType"):
        decode_once(dataset_of([stored("8 bits", 0), None]), processor(), folder=tmp_path)
    broken = {"bytes": b"no image", "path": None}
    with pytest.raises(DatasetError, match="row 1 cannot be decoded"):
        decode_once(dataset_of([stored("8 bits", 0), broken]), processor(), folder=tmp_path)
    rows = dataset_of([stored("8 bits", seed) for seed in range(2)])
    decoded_images = decode_once(rows, processor(), folder=tmp_path)
    pixels = decoded_images.folder / "pixels.bin"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    assert decoded_images[0].shape == (64, 64)
    with pytest.raises(DatasetError, match="must hold the decoded image of row 1"):
        decoded_images[1]


def test_processes_read_the_same_file(tmp_path):
    rows = dataset_of([stored("8 bits", seed) for seed in range(8)])
    decoded_images = decode_once(rows, processor(), folder=tmp_path)
    assert np.array_equal(pickle.loads(pickle.dumps(decoded_images))[7], decoded_images[7])
    collator = MLCAKCollator(processor(28), processor(56), ViewParameters(), seed=4)
    batches = [
        torch.cat([batch["pixel_values"] for batch in loader])
        for loader in (
            DataLoader(radiographs(rows), batch_size=8, collate_fn=collator),
            DataLoader(radiographs(rows, decoded_images), batch_size=3, num_workers=2, collate_fn=collator),
        )
    ]
    assert torch.equal(*batches)


def test_a_row_knows_its_images_name():
    rows = dataset_of([stored("8 bits", seed) for seed in range(2)])
    assert radiographs(rows).image_name(1) == "image-1"


@pytest.mark.parametrize(("kind", "kept"), [("8 bits", (True, True)), ("large", (True, False))])
def test_training_reads_decoded_images_and_evaluation_only_exact_ones(tmp_path, monkeypatch, kind, kept):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = dataset_of([stored(kind, seed) for seed in range(3)])
    backbone = {"model_type": "vit", "image_size": 28, "patch_size": 4, "num_channels": 1}
    config = MLCAKConfig(backbone_config=backbone, local_labels=[])
    data = TrainingData(rows, rows.select([1]), DatasetColumns(findings=None, image_id="image_id"), {}, {}, rows)
    opened = data.radiographs(config, processor(), DataArguments("drawn"))
    assert tuple(dataset.decoded_images is not None for dataset in opened) == kept
    off = data.radiographs(config, processor(), DataArguments("drawn", decode_once=False))
    assert all(dataset.decoded_images is None for dataset in off)
