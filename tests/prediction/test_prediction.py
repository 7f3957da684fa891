"""Files to predictions: geometry of the heatmaps, which files are found, tables, and a model from end to end."""

import csv
import io
import json
import runpy
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.errors import DatasetError, DicomError, MLCAKError
from mlcak_hf.explanation.choices import Explanation
from mlcak_hf.explanation.overlay import attention_over_radiograph, draw_heatmap, enlarge_for_display
from mlcak_hf.image_processing_mlcak import area_resize, fit_to_square, map_boxes
from mlcak_hf.prediction.outputs import HeatmapNames
from mlcak_hf.prediction.predictor import RadiographPredictor
from mlcak_hf.prediction.reading import Prediction, ReadFile, read_file
from mlcak_hf.prediction.tables import write_predictions
from mlcak_hf.radiographs.file_search import find_radiographs
from mlcak_hf.radiographs.read import read_radiograph

FINDINGS = ["Cardiomegaly", "Nodule/Mass"]


def tiny_model(image_size: int = 28, model_type: str = "vit", **config: object) -> MLCAKForCXRClassification:
    torch.manual_seed(0)
    backbone = {
        "model_type": model_type,
        "image_size": image_size,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return MLCAKForCXRClassification(MLCAKConfig(**{"backbone_config": backbone, "local_labels": FINDINGS, **config}))


def tiny_processor(size: int = 28, **settings: object) -> MLCAKImageProcessor:
    return MLCAKImageProcessor(size={"height": size, "width": size}, **settings)


@pytest.fixture(scope="module")
def predictor() -> RadiographPredictor:
    return RadiographPredictor(tiny_model(), tiny_processor(), device="cpu")


@pytest.fixture
def radiographs(tmp_path: Path) -> Path:
    """A folder of five pictures that differ in size and depth."""
    folder = tmp_path / "radiographs"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index, name in enumerate(["a.png", "b.png", "sub/a.png", "c.jpg"]):
        pixels = random.integers(0, 256, (40 + 9 * index, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(random.integers(0, 65536, (50, 50), dtype=np.uint16)).save(folder / "deep.png")
    return folder


def test_twelve_bits_in_sixteen_are_refused_without_a_range_and_right_with_one(predictor, tmp_path):
    values = np.random.default_rng(1).integers(0, 4096, (50, 50), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "twelve.png")
    Image.fromarray(np.rint(values * (65535 / 4095)).astype(np.uint16)).save(tmp_path / "sixteen.png")
    (refused,) = predictor.predict([tmp_path / "twelve.png"])
    assert refused.error is None
    assert refused.refused_because.startswith("The image uses at most an eighth of its 16-bit range")
    assert "--value-range 0 4095" in refused.refused_because
    ranged = RadiographPredictor(predictor.model, predictor.processor, device="cpu", value_range=(0, 4095))
    ((twelve,), (sixteen,)) = ranged.predict([tmp_path / "twelve.png"]), predictor.predict([tmp_path / "sixteen.png"])
    assert twelve.probabilities == pytest.approx(sixteen.probabilities, abs=1e-4)
    with pytest.raises(DicomError, match="value_range"):
        RadiographPredictor(predictor.model, predictor.processor, device="cpu", value_range=(1, 0))


# Geometry


@pytest.mark.parametrize("original_size", [(120, 80), (75, 131), (64, 64)])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_attention_on_one_patch_lands_on_the_place_that_the_patch_saw(original_size: tuple[int, int], fit: str) -> None:
    """A bright spot is found by the patch it falls into; attention on that patch must come back to the spot."""
    size, patch = 28, 4
    height, width = original_size
    for y, x in [(0.5, 0.5), (0.3, 0.7), (0.9, 0.15)]:
        row, column = int(y * height), int(x * width)
        radiograph = np.zeros(original_size, np.float32)
        radiograph[row, column] = 1.0
        seen = area_resize(fit_to_square(radiograph, fit), size, size)
        in_patches = area_resize(seen, size // patch, size // patch)
        attention = (in_patches == in_patches.max()).astype(np.float32)
        attention /= attention.sum()

        over = attention_over_radiograph(attention, original_size, size, fit)

        assert over.shape == original_size
        peak_row, peak_column = np.unravel_index(over.argmax(), over.shape)
        side = (max(original_size),) * 2 if fit == "pad" else original_size
        half_patch = (side[0] / (size / patch) / 2, side[1] / (size / patch) / 2)
        assert abs(peak_row - row) <= half_patch[0] + 1
        assert abs(peak_column - column) <= half_patch[1] + 1
        assert over[row, column] >= 0.25 * over.max()  # a quarter remains at the corner of the patch


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_attention_follows_the_mapping_of_the_boxes(fit: str) -> None:
    """At the centre of each patch's box, mapped back by map_boxes, the attention is that patch's attention."""
    original_size, size, grid = (180, 110), 28, (7, 7)
    attention = np.random.default_rng(1).random(grid).astype(np.float32)
    over = attention_over_radiograph(attention, original_size, size, fit)
    inside = 0
    for row in range(grid[0]):
        for column in range(grid[1]):
            box = np.array([[column * 4, row * 4, column * 4 + 4, row * 4 + 4]], float)
            left, top, right, bottom = map_boxes(box, original_size, (size, size), fit, inverse=True)[0]
            y, x = (top + bottom) / 2, (left + right) / 2
            if not (1 <= y < original_size[0] - 1 and 1 <= x < original_size[1] - 1):
                continue  # padding
            inside += 1
            assert over[int(y), int(x)] == pytest.approx(attention[row, column], abs=0.01)
    assert inside == (49 if fit == "squash" else 35)


def test_attention_on_padding_is_not_pulled_into_the_radiograph() -> None:
    attention = np.zeros((7, 7), np.float32)
    attention[:, 0] = 1 / 7  # A tall radiograph has its padding at the left and right.
    over = attention_over_radiograph(attention, (210, 70), 28, "pad")
    assert over.max() == 0.0


def test_shown_size_changes_the_sampling_and_not_the_place() -> None:
    attention = np.random.default_rng(2).random((7, 7)).astype(np.float32)
    full = attention_over_radiograph(attention, (400, 600), 28, "pad")
    half = attention_over_radiograph(attention, (400, 600), 28, "pad", shown_size=(200, 300))
    np.testing.assert_allclose(area_resize(full, 200, 300), half, atol=5e-3)


def test_a_constant_map_stays_constant() -> None:
    over = attention_over_radiograph(np.full((7, 7), 0.02, np.float32), (90, 140), 28, "pad")
    np.testing.assert_allclose(over, 0.02, rtol=1e-6)


def test_a_heatmap_is_brightest_over_the_attended_patch_and_keeps_the_rest_of_the_radiograph() -> None:
    radiograph = np.full((210, 140), 0.5, np.float32)
    attention = np.ones((7, 7), np.float32)
    attention[2, 4] = 10
    picture = np.asarray(draw_heatmap(radiograph, attention, (210, 140), 28, "pad")).astype(int)
    inset = next(row for row in range(picture.shape[0]) if picture[row].any())
    body = picture[inset : inset + 210, inset : inset + 140]
    warmth = body[..., 0] - body[..., 2]
    row, column = np.unravel_index(warmth.argmax(), warmth.shape)
    # Patch (2, 4) of the padded 210 px square: rows 60-90, columns 120-150, less 35 px of padding.
    assert 60 <= row < 90
    assert 85 <= column < 115
    assert (body[150:, :60] == 128).all()


def test_a_flat_map_is_drawn_flat() -> None:
    rng = np.random.default_rng(3)
    nearly_uniform = np.full((7, 7), 1 / 49, np.float32) * (1 + 0.001 * rng.standard_normal((7, 7)).astype(np.float32))
    picture = np.asarray(draw_heatmap(np.full((70, 70), 0.5, np.float32), nearly_uniform, (70, 70), 28, "pad"))
    inset = next(row for row in range(picture.shape[0]) if picture[row].any())
    body = picture[inset : inset + 70, inset : inset + 70].astype(int)
    assert np.ptp(body.reshape(-1, 3), axis=0).max() < 4


def test_small_radiographs_are_enlarged_in_their_proportions_and_range() -> None:
    middling = np.random.default_rng(4).random((600, 700)).astype(np.float32)
    assert enlarge_for_display(middling) is middling
    enlarged = enlarge_for_display(middling[:64, :32])
    assert enlarged.shape == (512, 256)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1
    assert enlarged.mean() == pytest.approx(middling[:64, :32].mean(), abs=0.01)


@pytest.mark.parametrize("size", [(3072, 2048), (900, 1024)])
def test_a_picture_for_a_heatmap_has_the_proportions_of_the_radiograph_and_at_most_1024_px(tmp_path, size) -> None:
    Image.fromarray(np.arange(size[0] * size[1]).astype(np.uint8).reshape(size)).save(tmp_path / "large.png")
    read = read_file(tmp_path / "large.png", 28, "pad", "dicom", None, "warn", with_picture=True)
    assert read.picture is not None
    assert read.picture.shape == pytest.approx((1024, 683) if size[0] == 3072 else size, abs=1)


# Which files


def test_a_folder_is_searched_for_radiographs(tmp_path: Path) -> None:
    def write(name: str, content: bytes = b"x") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    dicom = bytes(128) + b"DICM"
    wanted = [write("b.DCM"), write("a.png"), write("deep/er/c.JPeG"), write("study/IM0001", dicom)]
    write("notes.txt")
    write(".hidden.png")
    write(".git/x.png")
    write("DICOMDIR", dicom)
    write("heatmaps/a.png")
    write("short")
    assert find_radiographs(tmp_path, exclude=[tmp_path / "heatmaps"]) == sorted(wanted)
    assert tmp_path / "heatmaps/a.png" in find_radiographs(tmp_path)
    # A file that is named is not judged by its name: reading it will tell.
    assert find_radiographs(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_nothing_to_find_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no-such"):
        find_radiographs(tmp_path / "no-such")
    with pytest.raises(DatasetError, match="No radiographs"):
        find_radiographs(tmp_path)


def test_names_of_heatmaps_do_not_collide(tmp_path: Path) -> None:
    names = HeatmapNames(tmp_path)
    inputs = ["x/a.dcm", "y/a.png", "z/A.jpg", "z/a-2.png", "b.v1.dcm"]
    made = [names.next(Path(name)).name for name in inputs]
    assert made == ["a.png", "a-2.png", "A-3.png", "a-2-2.png", "b.v1.png"]


# The whole way


def test_predictions_are_those_of_the_model(predictor: RadiographPredictor, radiographs: Path) -> None:
    files = find_radiographs(radiographs)
    predictions = predictor.predict(files, batch_size=2, attention=True)
    assert [prediction.file for prediction in predictions] == files
    for prediction in predictions:
        pixels = predictor.processor(read_radiograph(prediction.file), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = predictor.model(pixels, output_attentions=True)
        expected = output.logits.softmax(-1)[0]
        assert list(prediction.probabilities) == ["Normal", "Abnormal"]
        assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert list(prediction.findings) == FINDINGS
        assert list(prediction.findings.values()) == pytest.approx(output.local_logits.sigmoid()[0].tolist(), abs=1e-6)
        assert prediction.attention is not None
        np.testing.assert_allclose(prediction.attention.ravel(), output.mlcak[0, 0, 1:].numpy(), atol=1e-6)
        assert prediction.error is None


def test_the_next_batch_is_read_while_one_is_predicted(predictor, radiographs, monkeypatch) -> None:
    files = find_radiographs(radiographs)
    next_is_read, run = threading.Event(), predictor.run

    def read(file: Path, **options: object) -> ReadFile:
        if file == files[1]:
            next_is_read.set()
        return read_file(file, **options)

    def run_and_wait(*arguments: object) -> object:
        assert next_is_read.wait(20)
        return run(*arguments)

    monkeypatch.setattr("mlcak_hf.prediction.file_predictor.read_file", read)
    monkeypatch.setattr(predictor, "run", run_and_wait)
    assert [prediction.file for prediction in predictor.stream(files, batch_size=1)] == files


def test_neither_batch_size_nor_workers_change_a_probability(predictor: RadiographPredictor, radiographs: Path) -> None:
    files = find_radiographs(radiographs) * 3
    expected = predictor.predict(files, batch_size=1)
    for options in ({"batch_size": 7}, {"batch_size": 4, "workers": 2}):
        predictions = predictor.predict(files, **options)
        assert [prediction.file for prediction in predictions] == files
        for prediction, alone in zip(predictions, expected, strict=True):
            assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
            assert prediction.findings == pytest.approx(alone.findings, abs=1e-6)


def test_sixteen_bits_survive(predictor: RadiographPredictor, tmp_path: Path) -> None:
    """A 16-bit file predicts as its 8-bit twin does; through the pipeline's 8-bit path it would be nearly white."""
    shades = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(shades).save(tmp_path / "eight.png")
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    eight, sixteen = predictor.predict([tmp_path / "eight.png", tmp_path / "sixteen.png"])
    assert sixteen.probabilities["Abnormal"] == pytest.approx(eight.probabilities["Abnormal"], abs=1e-6)


def test_the_value_range_of_the_processor_is_not_applied_to_files(radiographs: Path) -> None:
    """read_radiograph has scaled to [0, 1] already; applying a 12-bit range on top would make everything black."""
    plain = RadiographPredictor(tiny_model(), tiny_processor(), "cpu").predict([radiographs / "a.png"])
    ranged = RadiographPredictor(tiny_model(), tiny_processor(value_range=[0, 4095]), "cpu").predict(
        [radiographs / "a.png"]
    )
    assert ranged[0].probabilities == plain[0].probabilities


def test_unreadable_files_are_reported_and_the_others_go_on(predictor: RadiographPredictor, radiographs: Path) -> None:
    (radiographs / "broken.dcm").write_bytes(b"not a DICOM file")
    (radiographs / "cut.png").write_bytes((radiographs / "a.png").read_bytes()[:100])
    files = [*find_radiographs(radiographs), radiographs / "gone.png"]
    predictions = predictor.predict(files, batch_size=3)
    failed = {prediction.file.name: prediction for prediction in predictions if prediction.error}
    assert set(failed) == {"broken.dcm", "cut.png", "gone.png"}
    assert all(not prediction.probabilities for prediction in failed.values())
    assert sum(bool(prediction.probabilities) for prediction in predictions) == 5


def test_a_batch_of_unreadable_files_only_gives_errors(predictor: RadiographPredictor, tmp_path: Path) -> None:
    (predictions,) = (predictor.predict([tmp_path / "x.png", tmp_path / "y.png"], heatmaps_dir=tmp_path / "h"),)
    assert [bool(prediction.error) for prediction in predictions] == [True, True]


def test_at_most_one_batch_is_read_ahead(predictor: RadiographPredictor, radiographs: Path) -> None:
    asked: list[Path] = []

    def files():
        for path in find_radiographs(radiographs):
            asked.append(path)
            yield path

    stream = predictor.stream(files(), batch_size=1)
    next(stream)
    next(stream)
    assert 2 <= len(asked) <= 3


def test_heatmaps_are_written_beside_each_other(predictor: RadiographPredictor, radiographs: Path) -> None:
    folder = radiographs.parent / "made" / "heatmaps"
    predictions = predictor.predict(find_radiographs(radiographs), batch_size=2, heatmaps_dir=folder)
    written = [prediction.heatmap for prediction in predictions]
    assert sorted(path.name for path in written if path) == ["a-2.png", "a.png", "b.png", "c.png", "deep.png"]
    for path in written:
        assert path is not None
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert not picture.info.get("exif")


def test_deit_leaves_out_both_prefix_tokens(radiographs: Path) -> None:
    predictor = RadiographPredictor(tiny_model(model_type="deit"), tiny_processor(), "cpu")
    (prediction,) = predictor.predict([radiographs / "a.png"], attention=True)
    assert prediction.attention is not None
    assert prediction.attention.shape == (7, 7)
    assert 0 < prediction.attention.sum() < 1


def test_a_multi_label_model_without_findings_predicts_each_label(radiographs: Path) -> None:
    model = tiny_model(
        problem_type="multi_label_classification",
        id2label={0: "Pneumonia", 1: "Tuberculosis", 2: "COPD"},
        local_labels=[],
    )
    (prediction,) = RadiographPredictor(model, tiny_processor(), "cpu").predict([radiographs / "b.png"])
    pixels = tiny_processor()(read_radiograph(radiographs / "b.png"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).logits.sigmoid()[0]
    assert prediction.findings == {}
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_saved_model_predicts_the_same(tmp_path: Path, radiographs: Path, predictor: RadiographPredictor) -> None:
    predictor.model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    loaded = RadiographPredictor.from_pretrained(tmp_path / "model", device="cpu")
    file = radiographs / "a.png"
    assert loaded.predict([file])[0].probabilities == predictor.predict([file])[0].probabilities


def test_a_folder_that_cannot_be_loaded_is_refused_with_the_reason(
    tmp_path: Path, predictor: RadiographPredictor
) -> None:
    with pytest.raises(MLCAKError, match=r"has no config\.json"):
        RadiographPredictor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(MLCAKError, match="'vit'"):
        RadiographPredictor.from_pretrained(tmp_path)
    with pytest.raises(MLCAKError, match="there is no such folder"):
        RadiographPredictor.from_pretrained(tmp_path / "no-such-folder")
    predictor.model.save_pretrained(tmp_path / "bare")
    with pytest.raises(MLCAKError, match="preprocessor_config"):
        RadiographPredictor.from_pretrained(tmp_path / "bare")
    with pytest.raises(MLCAKError, match="56"):
        RadiographPredictor(predictor.model, tiny_processor(56))
    with pytest.raises(MLCAKError, match="batch_size"):
        predictor.predict([], batch_size=0)


def test_real_radiographs_are_predicted_and_drawn(
    shared_data: Path, predictor: RadiographPredictor, tmp_path: Path
) -> None:
    source = sorted((shared_data / "nih-in-vindr-layout" / "test").glob("*.dicom"))[:3]
    for path in source:
        shutil.copy(path, tmp_path / path.stem)  # without a suffix: found by the magic bytes
    predictions = predictor.predict(find_radiographs(tmp_path), heatmaps_dir=tmp_path / "heatmaps")
    assert [prediction.error for prediction in predictions] == [None] * 3
    assert all(prediction.heatmap and prediction.heatmap.is_file() for prediction in predictions)


# Tables


PREDICTIONS = [
    Prediction(Path("no.dcm"), error="cut off"),
    Prediction(Path("a[red].png"), {"Normal": 0.25, "Abnormal": 0.75}, {"Cardiomegaly": 0.1, "Nodule/Mass": 0.6}),
    Prediction(Path("b, c.png"), {"Normal": 1.0, "Abnormal": 0.0}, {"Cardiomegaly": 0.3, "Nodule/Mass": 0.2}),
]


def test_the_csv_holds_every_file_under_the_same_columns(tmp_path: Path) -> None:
    output = tmp_path / "new" / "table.csv"
    assert write_predictions(iter(PREDICTIONS), "csv", output) == 1
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["no.dcm", "a[red].png", "b, c.png"]
    assert rows[0]["error"] == "cut off"
    assert rows[0]["global/Abnormal"] == ""
    assert float(rows[1]["finding/Nodule/Mass"]) == 0.6
    assert float(rows[2]["global/Normal"]) == 1.0


def test_a_finding_that_was_not_learned_is_empty_in_every_format(radiographs: Path, tmp_path: Path) -> None:
    predictor = RadiographPredictor(tiny_model(), tiny_processor(), "cpu")
    predictor.unlearned_findings = frozenset({"Nodule/Mass", "a finding of another model"})
    predictions = predictor.predict([radiographs / "a.png"])
    assert list(predictions[0].findings) == FINDINGS
    for name in ("p.csv", "p.json", "p.txt"):
        write_predictions(predictions, output=tmp_path / name)
    (row,) = csv.DictReader((tmp_path / "p.csv").open(newline=""))
    assert row["finding/Nodule/Mass"] == ""
    assert float(row["finding/Cardiomegaly"]) == pytest.approx(predictions[0].findings["Cardiomegaly"], rel=1e-5)
    (entry,) = json.loads((tmp_path / "p.json").read_text())
    assert entry["findings"]["Nodule/Mass"] is None
    assert "Cardiomegaly" in (tmp_path / "p.txt").read_text()
    assert "Nodule" not in (tmp_path / "p.txt").read_text()


def test_json_is_a_list_of_objects(tmp_path: Path) -> None:
    for predictions in (PREDICTIONS, []):
        assert write_predictions(predictions, "json", tmp_path / "x.json") == (1 if predictions else 0)
        rows = json.loads((tmp_path / "x.json").read_text())
        assert [row["file"] for row in rows] == [str(prediction.file) for prediction in predictions]
    assert write_predictions(PREDICTIONS[1:2], "json", tmp_path / "y.json") == 0
    (row,) = json.loads((tmp_path / "y.json").read_text())
    assert row["findings"] == {"Cardiomegaly": 0.1, "Nodule/Mass": 0.6}
    assert row["error"] is None


def test_the_table_shows_probabilities_highest_findings_and_failures() -> None:
    console = Console(file=io.StringIO(), width=120)
    assert write_predictions(PREDICTIONS, "table", console=console) == 1
    text = console.file.getvalue()
    assert "a[red].png" in text
    assert "0.750" in text
    assert "Nodule/Mass 0.60, Cardiomegaly 0.10" in text
    assert "Not read: no.dcm: cut off" in text


def test_the_table_names_a_common_folder_once() -> None:
    def shown(*files: str) -> str:
        console = Console(file=io.StringIO(), width=120)
        predictions = [Prediction(Path(file), {"Normal": 0.5, "Abnormal": 0.5}) for file in files]
        write_predictions(predictions, "table", console=console)
        return str(console.file.getvalue())

    text = shown("/data/study/a.dcm", "/data/study/more/b.dcm")
    assert text.count("/data/study") == 1
    assert "more/b.dcm" in text
    assert "/data/study/a.dcm" in shown("/data/study/a.dcm", "b.dcm")


def test_failures_alone_make_a_csv_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    assert write_predictions(PREDICTIONS[:1], "csv", tmp_path / "x.csv") == 1
    assert "cut off" in (tmp_path / "x.csv").read_text()
    with pytest.raises(MLCAKError, match="xml"):
        write_predictions(PREDICTIONS, "xml")


# The example script


def test_the_example_script_writes_a_table_and_heatmaps(
    predictor: RadiographPredictor,
    radiographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Path(__file__).resolve().parents[2] / "examples" / "prediction" / "predict_radiographs.py"
    model, output = radiographs.parent / "model", radiographs / "out"
    predictor.model.save_pretrained(model)
    predictor.processor.save_pretrained(model)
    for _ in range(2):  # The second run must not take the first one's heatmaps for radiographs.
        monkeypatch.setattr("sys.argv", [str(script), str(model), str(radiographs), "--output", str(output)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(script), run_name="__main__")
        assert stopped.value.code == 0
        assert "5 of 5 radiographs" in capsys.readouterr().out
    with (output / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    assert len(list((output / "heatmaps").iterdir())) == 5


def test_no_radiograph_is_overwritten(tmp_path: Path, predictor: RadiographPredictor) -> None:
    """Neither by heatmaps into its own folder nor by a result of its name, whoever asks."""
    picture = tmp_path / "a.png"
    Image.fromarray(np.arange(1600).reshape(40, 40).astype(np.uint8)).save(picture)
    before = picture.read_bytes()
    with pytest.raises(MLCAKError, match=r"holds the radiograph a\.png"):
        predictor.predict([picture], heatmaps_dir=tmp_path)
    with pytest.raises(MLCAKError, match=r"holds the radiograph a\.png"):
        list(predictor.stream(iter([picture]), heatmaps_dir=tmp_path))
    with pytest.raises(MLCAKError, match="named like, a radiograph"):
        write_predictions(predictor.stream([picture]), "csv", picture)
    assert picture.read_bytes() == before
    with pytest.raises(MLCAKError, match=r"is a folder\. Name a file"):
        write_predictions(predictor.predict([picture]), "csv", tmp_path)
    with pytest.raises(MLCAKError, match=r"is a file\. Name a folder"):
        predictor.predict([picture], heatmaps_dir=picture)
    (made,) = predictor.predict([picture], heatmaps_dir=tmp_path / "maps")
    assert made.heatmap == tmp_path / "maps" / "a.png"


def test_no_radiograph_is_overwritten_under_another_name(tmp_path: Path, predictor: RadiographPredictor) -> None:
    """Links, a file without a suffix, and a stream that names the radiograph last."""
    for folder in ("in", "maps", "links"):
        (tmp_path / folder).mkdir()
    first, last = tmp_path / "in" / "a.png", tmp_path / "maps" / "b.png"
    for picture in (first, last):
        Image.fromarray(np.arange(1600).reshape(40, 40).astype(np.uint8)).save(picture)
    bare = tmp_path / "in" / "IM0001"
    shutil.copy(first, bare)
    before = first.read_bytes()

    with pytest.raises(MLCAKError, match=r"holds the radiograph b\.png"):
        list(predictor.stream(iter([first, last]), batch_size=1, heatmaps_dir=tmp_path / "maps"))
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["b.png"], "nothing was written"
    (tmp_path / "links" / "a.png").symlink_to(first)
    with pytest.raises(MLCAKError, match=r"holds the radiograph a\.png"):
        predictor.predict([first], heatmaps_dir=tmp_path / "links")

    (tmp_path / "hard.csv").hardlink_to(first)
    for output, name in ((bare, "IM0001"), (tmp_path / "hard.csv", r"hard\.csv")):
        with pytest.raises(MLCAKError, match=rf"{name} is, or is named like"):
            write_predictions(predictor.stream(iter([last, bare, first]), batch_size=1), "csv", output)
        assert output.read_bytes() == before
    assert not list(tmp_path.rglob(".*")), "no partial file stays"


def test_an_earlier_result_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    def interrupted():
        yield PREDICTIONS[1]
        raise KeyboardInterrupt

    (tmp_path / "p.csv").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        write_predictions(interrupted(), "csv", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "earlier"
    write_predictions(iter(PREDICTIONS), "csv", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().startswith("file,")
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_a_device_that_is_not_there_and_weights_cut_short_are_one_sentence(
    tmp_path: Path, predictor: RadiographPredictor
) -> None:
    with pytest.raises(MLCAKError, match="device 'nonsense' cannot be used"):
        RadiographPredictor(predictor.model, predictor.processor, device="nonsense")
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(MLCAKError, match="cannot be loaded"):
        RadiographPredictor.from_pretrained(tmp_path)


def test_heatmaps_of_one_model_have_the_same_scale() -> None:
    """Attention of 4x is the same colour whether or not another patch of its map has 8x."""

    def colour_at_4x(*strengths: float) -> list[int]:
        attention = np.full((7, 7), (49 - sum(strengths)) / (49 - len(strengths)), np.float32)
        attention[3, [1, 5][: len(strengths)]] = strengths
        picture = np.asarray(draw_heatmap(np.full((70, 70), 0.5, np.float32), attention, (70, 70), 28, "pad"))
        inset = next(row for row in range(picture.shape[0]) if picture[row].any())
        return [int(value) for value in picture[inset + 35, inset + 15]]

    assert colour_at_4x(4) == colour_at_4x(4, 8)


@pytest.mark.parametrize("method", ["rollout", "gradient", "grad-cam"])
def test_heatmaps_can_show_other_explanations(radiographs: Path, tmp_path: Path, method: str) -> None:
    predictor = RadiographPredictor(tiny_model(), tiny_processor(), "cpu")
    files = [radiographs / "a.png", radiographs / "gone.png", radiographs / "b.png"]
    plain = predictor.predict(files, heatmaps_dir=tmp_path / "attention")
    shown = predictor.predict(files, heatmaps_dir=tmp_path / method, explanation=Explanation(method))
    assert [prediction.probabilities for prediction in shown] == [prediction.probabilities for prediction in plain]
    assert [prediction.heatmap is None for prediction in shown] == [False, True, False]
    assert shown[0].heatmap.read_bytes() != plain[0].heatmap.read_bytes()


def test_a_finding_can_be_explained_unless_the_model_never_saw_it(radiographs: Path, tmp_path: Path) -> None:
    predictor = RadiographPredictor(tiny_model(), tiny_processor(), "cpu")
    (global_label,), (finding,) = (
        predictor.predict([radiographs / "a.png"], heatmaps_dir=tmp_path / str(label), explanation=explanation)
        for label, explanation in enumerate([Explanation("gradient"), Explanation("gradient", "Nodule/Mass")])
    )
    assert global_label.heatmap.read_bytes() != finding.heatmap.read_bytes()
    with pytest.raises(MLCAKError, match="one of the model's Cardiomegaly, Nodule/Mass, Normal, Abnormal"):
        predictor.predict([], explanation=Explanation("gradient", "Edema"))
    predictor.unlearned_findings = frozenset({"Nodule/Mass"})
    with pytest.raises(MLCAKError, match="never saw 'Nodule/Mass' in training"):
        predictor.predict([], explanation=Explanation("gradient", "Nodule/Mass"))


def test_a_map_without_any_evidence_says_that_it_is_empty() -> None:
    radiograph, nothing = np.full((70, 70), 0.5, np.float32), np.zeros((7, 7), np.float32)
    drawn = draw_heatmap(radiograph, nothing, (70, 70), 28, "pad")
    uniform = draw_heatmap(radiograph, nothing + 1, (70, 70), 28, "pad")
    assert (np.asarray(drawn)[20:60, 20:60] == np.asarray(uniform)[20:60, 20:60]).all(), "no colour"
    assert np.asarray(drawn).shape != np.asarray(uniform).shape or (np.asarray(drawn) != np.asarray(uniform)).any()
