"""A native export in Node.js, by transformers.js, against plain transformers in Python."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from transformers import pipeline

from mlcak_hf.deployment.export import deviation
from mlcak_hf.deployment.export.native_vit import export_vit
from mlcak_hf.phantoms.render import render_phantom

REASON = "TRANSFORMERS.JS IS NOT TESTED: make test-javascript"
pytest.importorskip("onnxruntime", reason=f"onnxruntime is missing, so that {REASON}")
pytest.importorskip("onnxscript", reason=f"onnxscript is missing, so that {REASON}")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "tests" / "javascript" / "node_modules"
COUNT = 200
SIZES = ((224, 224), (256, 256), (280, 320), (320, 256))

pytestmark = [
    pytest.mark.skipif(not PACKAGES.is_dir(), reason=f"its npm packages are missing, so that {REASON}"),
    pytest.mark.timeout(900),
]


def write_images(folder: Path) -> dict[Path, str]:
    """Pictures with their kind: drawings of four sizes, half of them real where they are present."""
    written = {}
    shared = Path(os.environ.get("MLCAK_SHARED_DATA", "nowhere"))
    for file in sorted(shared.glob("kermany-pneumonia-224/*.parquet")):
        rows = parquet.ParquetFile(file).read_row_group(0, columns=["image"]).slice(0, COUNT // 4).to_pylist()
        for row in rows[: COUNT // 2 - len(written)]:
            path = folder / f"real-{len(written):03}.png"
            path.write_bytes(row["image"]["bytes"])
            written[path] = "real"
    for index in range(COUNT - len(written)):
        height, width = SIZES[index % 4]
        pixels = np.clip(render_phantom(seed=3, index=index, size_px=320).pixels, 0, 1)
        path = folder / f"drawn-{index:03}.png"
        deviation.grey_image(pixels, height, width).save(path)
        written[path] = f"{height} x {width}"
    return written


def test_node_gives_the_same_top_label_on_200_images(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(deviation, "PHANTOMS", 1)
    export_vit("pneumonia-28-linear", tmp_path / "native", javascript=True)
    (tmp_path / "images").mkdir()
    images = write_images(tmp_path / "images")
    # Node.js looks for packages beside the script.
    shutil.copy(ROOT / "examples" / "export" / "classify.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    command = ["node", "classify.mjs", "native", *map(str, images)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs = [json.loads(line)["labels"] for line in ran.stdout.splitlines()]

    classify = pipeline("image-classification", model=str(tmp_path / "native"), device="cpu")
    differences: dict[str, list[float]] = {}
    for (file, kind), found in zip(images.items(), theirs, strict=True):
        expected = {row["label"]: row["score"] for row in classify(Image.open(file), top_k=100)}
        scores = {row["label"]: row["score"] for row in found}
        assert scores.keys() == expected.keys()
        assert max(scores, key=scores.__getitem__) == max(expected, key=expected.__getitem__), (file.name, expected)
        differences.setdefault(kind, []).append(max(abs(scores[name] - expected[name]) for name in expected))
    for kind, values in differences.items():
        print(f"{kind}: {len(values)} images, largest difference {max(values):.1e}, mean {np.mean(values):.1e}")
    assert max(differences["224 x 224"]) < 1e-4
