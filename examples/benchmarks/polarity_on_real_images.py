"""How often is a radiograph's polarity misjudged? Every real image upright and inverted, whole, cropped and framed.

    python examples/benchmarks/polarity_on_real_images.py ../shared/data

The folder holds `nih-in-vindr-layout/*/*.dicom` and `kermany-pneumonia-224/train.parquet`; phantoms are drawn. A false
alarm is an upright image that looks inverted, a miss an inverted one that does not. The grid that images are compared
with was averaged over NIH's adults; so that no source is judged by itself alone, the table has rows with a grid
averaged over Kermany's children as well. It took two minutes on one busy core.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image
from rich.console import Console
from rich.table import Table

from mlcak_hf.image_processing_mlcak import area_resize
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.radiographs.polarity import brightness_in_fifths, looks_inverted, upright_resemblance
from mlcak_hf.radiographs.reader import read_radiograph

CHANGES = {
    "whole": lambda x: x,
    "10 % cut off each side": lambda x: cut(x, 0.10),
    "15 % cut off each side": lambda x: cut(x, 0.15),
    "black frame": lambda x: np.pad(x, 12),
    "white frame": lambda x: np.pad(x, 12, constant_values=1.0),
    "black sides": lambda x: np.pad(x, ((0, 0), (15, 15))),
}


def cut(image: np.ndarray, share: float) -> np.ndarray:
    """Leave out a share of each side."""
    rows, columns = (round(n * share) for n in image.shape)
    return image[rows:-rows, columns:-columns]


def read_images(folder: Path, phantoms: int) -> dict[str, list[np.ndarray]]:
    """All images of each source, at 96 px."""
    nih = [read_radiograph(path) for path in sorted((folder / "nih-in-vindr-layout").glob("*/*.dicom"))]
    column = pyarrow.parquet.read_table(folder / "kermany-pneumonia-224" / "train.parquet", columns=["image"])["image"]
    kermany = [np.asarray(Image.open(io.BytesIO(item["bytes"])).convert("L"), np.float32) / 255
               for item in column.to_pylist()]  # fmt: skip
    drawn = [np.clip(render_phantom(index=index, size_px=128).pixels, 0, 1) for index in range(phantoms)]
    sources = {"NIH": nih, "Kermany": kermany, "phantoms": drawn}
    return {name: [area_resize(image, 96, 96) for image in images] for name, images in sources.items()}


def average_grid(images: list[np.ndarray]) -> np.ndarray:
    """What the grid in the package was made by: z-scores of each image, averaged, both sides alike."""
    grids = np.stack([brightness_in_fifths(image) for image in images])
    grids -= grids.mean((1, 2), keepdims=True)
    grids /= grids.std((1, 2), keepdims=True)
    mean = (grids.mean(0) + grids.mean(0)[:, ::-1]) / 2
    return mean / mean.std()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with both sources of real images")
    parser.add_argument("--phantoms", type=int, default=300, help="number of phantoms (default 300)")
    arguments = parser.parse_args()
    console, images = Console(), read_images(arguments.folder, arguments.phantoms)
    console.print("Average of NIH (the package's grid):", np.round(average_grid(images["NIH"]), 1), sep="\n")
    by_kermany = average_grid(images["Kermany"])
    judges = {
        "NIH": looks_inverted,
        "Kermany": lambda image: upright_resemblance(image, by_kermany) < 0,
    }
    table = Table("grid from", "judged", "images", "change", "false alarms", "misses", title="Polarity check")
    for grid, judge in judges.items():
        for change, apply in CHANGES.items():
            for source, group in images.items():
                alarms = sum(judge(apply(image)) for image in group)
                misses = sum(not judge(apply(1 - image)) for image in group)
                rates = [f"{n} ({n / len(group):.2%})" for n in (alarms, misses)]
                table.add_row(grid, source, str(len(group)), change, *rates)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
