"""The `mlcak` command as a shell sees it: what it prints, where, and with which exit code."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from saved_models import save_with_card
from tiny_models import tiny_model

from mlcak_hf import MLCAKImageProcessor


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlcak_hf.phantoms.writer import write_phantoms

    folder = tmp_path_factory.mktemp("cli") / "phantoms"
    write_phantoms(folder, num_train=12, num_test=4, size_px=64)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "student"
    model = tiny_model("vit")
    size = model.config.image_size
    return save_with_card(model, MLCAKImageProcessor(size={"height": size, "width": size}), folder)


def test_help_names_every_command_and_the_purpose(mlcak):
    code, out, _ = mlcak("--help")
    assert code == 0
    for command in ("phantom", "inspect", "prepare", "predict", "card", "export", "push"):
        assert command in out
    assert "not a" in out
    assert "medical device" in out


def test_phantoms_are_written_counted_and_not_overwritten_by_accident(mlcak, tmp_path):
    arguments = ("phantom", tmp_path / "p", "--train", 5, "--test", 2, "--size", 64)
    code, out, _ = mlcak(*arguments)
    assert code == 0
    assert "Pleural effusion" in out
    assert len(list((tmp_path / "p" / "train").glob("*.dicom"))) == 5
    code, _, err = mlcak(*arguments)
    assert code == 2
    assert "error: " in err
    assert mlcak(*arguments, "--overwrite")[0] == 0


def test_the_prevalence_of_findings_can_be_chosen(mlcak, tmp_path):
    shares = [part for name in ("Cardiomegaly=1", "Pneumothorax=0") for part in ("--prevalence", name)]
    assert mlcak("phantom", tmp_path / "p", "--train", 6, "--test", 2, "--size", 64, *shares)[0] == 0
    record = json.loads((tmp_path / "p" / "phantom.json").read_text())
    assert record["finding_counts"]["train"]["Cardiomegaly"] == 6
    assert record["finding_counts"]["train"]["Pneumothorax"] == 0
    assert record["prevalence"]["Cardiomegaly"] == 1
    for wrong, said in (("Cardiomegaly", "NAME=SHARE"), ("Cardiomegaly=2", "between 0 and 1"), ("Cold=0.1", "Cold")):
        code, _, err = mlcak("phantom", tmp_path / "q", "--prevalence", wrong)
        assert code == 2
        assert said in err
        assert not (tmp_path / "q").exists()


def test_prepare_writes_a_dataset_and_says_where(mlcak, phantoms, tmp_path):
    code, out, _ = mlcak("prepare", phantoms, tmp_path / "d", "--size", 32, "--groups", phantoms / "groups.csv")
    assert code == 0
    assert str(tmp_path / "d") in out
    assert "Splits are by image" not in out
    choices = json.loads((tmp_path / "d" / "preparation.json").read_text())["choices"]
    assert choices["size_px"] == 32


def test_prepare_without_options_chooses_what_the_library_does(mlcak, phantoms, tmp_path):
    from mlcak_hf import VinDrOptions

    code, out, err = mlcak("prepare", phantoms, tmp_path / "d")
    assert code == 0
    assert "Splits are by image, as no patients were given (--groups" in out
    assert "image/s" not in err  # no progress bar without a terminal
    choices = json.loads((tmp_path / "d" / "preparation.json").read_text())["choices"]
    assert choices.items() <= VinDrOptions(layout="physionet").choices().items()
    assert len(choices) > 12


def test_prepare_lists_what_it_left_out(mlcak, phantoms, tmp_path):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(phantoms, damaged)
    first = min((damaged / "train").glob("*.dicom"))
    first.write_bytes(first.read_bytes()[:300])
    code, _, err = mlcak("prepare", damaged, tmp_path / "d", "--size", 32)
    assert code == 2
    assert first.name in err
    assert "--on-error skip" in err
    assert not (tmp_path / "d").exists()
    code, out, _ = mlcak("prepare", damaged, tmp_path / "d", "--size", 32, "--on-error", "skip")
    assert code == 0
    assert "Skipped: 1 image(s)" in out
    assert first.stem in out


@pytest.mark.slow
def test_inspect_reports_damage_and_writes_json_and_a_picture(mlcak, phantoms, tmp_path):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(phantoms, damaged)
    first = min((damaged / "train").glob("*.dicom"))
    first.write_bytes(first.read_bytes()[:300])
    outputs = ("--json", tmp_path / "r.json", "--contact-sheet", tmp_path / "sheet.png")
    code, out, _ = mlcak("inspect", damaged, "--workers", 2, *outputs)
    assert code == 0
    for said in (
        "16 image files",
        first.name,
        "Pleural effusion",
        " readers, not the same",
        "Estimate for mlcak prepare",
    ):
        assert said in out
    problems = json.loads((tmp_path / "r.json").read_text())["problems"]
    assert [problem["files"] for problem in problems if problem["kind"] == "unreadable"] == [[f"train/{first.name}"]]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_kaggle_folder_of_pictures_is_prepared(mlcak, tmp_path):
    from PIL import Image

    folder = tmp_path / "kaggle"
    (folder / "train").mkdir(parents=True)
    rows = ["image_id;class_name;class_id;rad_id;x_min;y_min;x_max;y_max"]
    for n in range(8):
        Image.effect_noise((20, 24), 60).save(folder / "train" / f"k{n}.png")
        rows += [f"k{n};ILD;5;R1;1;2;30;40" if n % 2 else f"k{n};No finding;14;R1;;;;"]
    (folder / "train.csv").write_text("\n".join(rows))
    code, _, err = mlcak("prepare", folder, tmp_path / "d", "--size", 32)
    assert code == 2
    assert "--sizes same" in err
    assert mlcak("prepare", folder, tmp_path / "d", "--size", 32, "--layout", "physionet")[0] == 2
    chosen = ("--sizes", "same", "--test-fraction", 0.25, "--layout", "kaggle")
    assert mlcak("prepare", folder, tmp_path / "d", "--size", 32, *chosen)[0] == 0
    choices = json.loads((tmp_path / "d" / "preparation.json").read_text())["choices"]
    assert (choices["layout"], choices["sizes"], choices["test_fraction"]) == ("kaggle", "same", 0.25)
    assert mlcak("inspect", folder, "--sizes", "same", "--layout", "kaggle")[0] == 0


def test_pictures_that_seem_to_hold_12_bits_are_named_and_read_with_a_range(mlcak, tmp_path):
    import numpy as np
    from PIL import Image

    folder = tmp_path / "kaggle"
    (folder / "train").mkdir(parents=True)
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for n in range(8):
        values = np.linspace(0, 4095, 480).reshape(24, 20)
        Image.fromarray(values.astype(np.uint16)).save(folder / "train" / f"k{n}.png")
        rows.append(f"k{n},No finding,14,R1,,,,")
    (folder / "train.csv").write_text("\n".join(rows))
    code, out, _ = mlcak("prepare", folder, tmp_path / "d", "--size", 32)
    assert code == 0
    said = " ".join(out.split())
    assert "Suspect images: 8 16-bit image(s) use less than an eighth of their value range" in said
    assert "(--value-range 0 4095)" in said
    assert " and 3 more; all are in preparation.json, suspect_images.underfilled_range" in said
    again = ("prepare", folder, tmp_path / "d", "--size", 32, "--value-range", 0, 4095, "--overwrite")
    code, out, _ = mlcak(*again)
    assert code == 0
    assert "Suspect images" not in out
    assert json.loads((tmp_path / "d" / "preparation.json").read_text())["choices"]["value_range"] == [0, 4095]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nowhere"), "nowhere"),
        (("inspect", "{model}"), "must have a known layout"),
        (("prepare", "nowhere", "out"), "nowhere"),
        (("prepare", "{phantoms}", "/"), "Name a new folder in it"),
        (("prepare", "{phantoms}", "out", "--annotated", "Pneumotorax"), "Pneumothorax"),
        (("prepare", "{phantoms}", "out", "--groups", "no-groups.csv"), "no-groups.csv"),
        (("predict", "{model}", "nothing.dicom"), "nothing.dicom"),
        (("predict", "no-model", "{phantoms}"), "no-model"),
        (("predict", "no-model", "{phantoms}/test", "--heatmaps", "{phantoms}/test"), "holds the radiograph"),
        (("predict", "no-model", "{phantoms}/test", "--explain", "rollout"), "Name their folder with --heatmaps"),
        (("predict", "no-model", "{phantoms}", "--output", "{phantoms}"), "is a folder"),
        (("predict", "no-model", "{phantoms}", "--heatmaps", "{model}/config.json"), "config.json is a file"),
        (("predict", "no-model", "{phantoms}", "--output", "{model}/config.json/p.csv"), "config.json is a file"),
        (("predict", "no-model", "{phantoms}", "--heatmaps", "{model}/config.json/maps"), "config.json is a file"),
        (("predict", "{model}", "{phantoms}", "--device", "foo"), "device 'foo' cannot be used"),
        (("card", "no-model"), "no-model"),
    ],
)
def test_bad_input_is_one_clear_error(mlcak, phantoms, model_folder, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    given = [str(part).format(phantoms=phantoms, model=model_folder) for part in arguments]
    code, out, err = mlcak(*given)
    assert code == 2
    assert out == ""
    # Loading bars of transformers may precede it on stderr.
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_predictions_reach_a_csv_and_pictures_a_folder(mlcak, phantoms, model_folder, tmp_path):
    where = ("--output", tmp_path / "p.csv", "--heatmaps", tmp_path / "maps")
    code, _, err = mlcak("predict", model_folder, phantoms / "test", "--format", "csv", *where)
    assert code == 0
    assert "Research use only" in err
    assert "it/s" not in err  # no progress bar of loading without a terminal
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(0 <= float(row["global/Abnormal"]) <= 1 for row in rows)
    assert len(list((tmp_path / "maps").glob("*.png"))) == 4


def test_an_unreadable_file_is_named_and_gives_exit_code_1(mlcak, phantoms, model_folder, tmp_path):
    bad = tmp_path / "bad [1].dicom"
    bad.write_bytes(b"no image")
    good = next((phantoms / "test").glob("*.dicom"))
    code, out, _ = mlcak("predict", model_folder, bad, good, "--format", "json")
    assert code == 1
    first, second = json.loads(out)
    assert first["file"].endswith("bad [1].dicom")
    assert "must be DICOM, PNG or JPEG" in first["error"]
    assert second["error"] is None


def test_card_and_push_work_on_a_folder(mlcak, model_folder, tmp_path, monkeypatch):
    assert mlcak("card", model_folder, "--repo-id", "lab/tiny-student", "--license", "mit")[0] == 0
    text = (model_folder / "README.md").read_text()
    assert "# tiny-student" in text
    assert "not measured" in text.lower()
    called = {}

    class Commit:
        commit_url = "https://hub.example/commit/1"
        oid = "1a2b"

    monkeypatch.setattr(
        "mlcak_hf.deployment.publish.push_to_hub",
        lambda folder, repo_id, **options: called.update(repo_id=repo_id, **options) or {repo_id: Commit},
    )
    code, out, _ = mlcak("push", model_folder, "me/student")
    assert code == 0
    assert called == {"repo_id": "me/student", "forms": [], "private": True, "revision": None}
    assert Commit.commit_url in out
    assert 'from_pretrained("me/student", revision="1a2b")' in out


def test_damaged_models_and_missing_cards_are_one_line(mlcak, phantoms, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "damaged")
    (folder / "README.md").unlink()
    code, _, err = mlcak("push", folder, "me/student")
    assert code == 2
    assert "lacks README.md" in err
    assert "`mlcak card FOLDER`" in err
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = mlcak("predict", folder, phantoms / "test")
    assert code == 2
    assert "cannot be loaded" in err
    assert "Traceback" not in err
    (folder / "config.json").write_text("{")
    code, _, err = mlcak("card", folder)
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1


def test_a_dataset_is_pushed_only_with_the_acknowledgement(mlcak, phantoms, tmp_path):
    """HF_HUB_OFFLINE would make any request fail in another way."""
    assert mlcak("prepare", phantoms, tmp_path / "d", "--size", 32)[0] == 0
    code, _, err = mlcak("push", tmp_path / "d", "me/radiographs")
    assert code == 2
    assert "'I will not share access to PhysioNet restricted data with anyone else.'" in err
    assert "--i-may-share-this-data" in err
    code, _, err = mlcak("push", tmp_path / "d", "me/radiographs", "--i-may-share-this-data", "--public")
    assert code == 2
    assert "private repository only" in err


def test_parts_of_a_dataset_are_prepared_and_merged(mlcak, phantoms, tmp_path):
    prepare = ("prepare", phantoms, tmp_path / "d", "--size", 32, "--bits", 16)
    code, out, _ = mlcak(*prepare, "--shard", "0/2")
    assert code == 0
    assert "now holds" in out
    assert "2 of 3 shards" in out
    assert not (tmp_path / "d").exists()
    code, _, err = mlcak("merge", tmp_path / "d")
    assert code == 2
    assert "1 of 3 shards are missing: validation-00000-of-00001" in err
    assert mlcak(*prepare, "--shard", "1/2")[0] == 0
    code, out, _ = mlcak("merge", tmp_path / "d")
    assert code == 0
    assert str(tmp_path / "d") in out
    assert json.loads((tmp_path / "d" / "preparation.json").read_text())["choices"]["bits"] == 16
    assert mlcak("merge", tmp_path / "d")[:2] == (0, out)  # merged already
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    assert mlcak(*prepare)[0] == 0  # complete already: nothing is done
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    for wrong in ("2/2", "1", "a/b"):
        code, _, err = mlcak(*prepare, "--shard", wrong)
        assert code == 2
        assert wrong in err


def test_the_format_follows_the_suffix_and_rows_name_the_model(mlcak, phantoms, model_folder, tmp_path):
    assert mlcak("predict", model_folder, phantoms / "test", "--output", tmp_path / "p.csv", "--workers", 2)[0] == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == sorted(path.stem for path in (phantoms / "test").glob("*.dicom"))
    assert {(row["model"], row["mlcak_version"], len(row["weights"])) for row in rows} == {("student", "0.1.0", 12)}
    code, _, err = mlcak("predict", model_folder, phantoms / "test", "--output", tmp_path / "p.xlsx")
    assert code == 2
    assert ".parquet or .txt; got '.xlsx'" in err


def test_one_missing_path_is_a_row_and_the_others_are_predicted(mlcak, phantoms, model_folder, tmp_path):
    code, out, err = mlcak("predict", model_folder, "gone.dcm", phantoms / "test", "--format", "json")
    assert code == 1
    assert [row["error"] is None for row in json.loads(out)] == [False, True, True, True, True]
    assert "5 found: 4 predicted, 0 refused, 1 unreadable." in err


def test_another_range_of_grey_values_than_in_training_is_warned_of(mlcak, phantoms, model_folder):
    code, _, err = mlcak("predict", model_folder, phantoms / "test", "--voi", "percentile")
    assert code == 0
    assert "Warning: the model was trained with --voi dicom, not percentile." in err


def test_findings_that_were_not_learned_are_named(mlcak, phantoms, model_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "training.json").touch()
    record = SimpleNamespace(unlearned_findings=frozenset({"Edema"}))
    monkeypatch.setattr("mlcak_hf.training.record.TrainingRecord.load", lambda path: record)
    code, out, err = mlcak("predict", folder, phantoms / "test", "--format", "csv")
    assert code == 0
    assert "Left empty, because the model never saw them in training: Edema." in err
    assert {row["finding/Edema"] for row in csv.DictReader(out.splitlines())} == {""}


def test_ctrl_c_says_what_is_done(mlcak, phantoms, model_folder, monkeypatch):
    def interrupted(predictions, *_):
        next(iter(predictions))
        raise KeyboardInterrupt

    monkeypatch.setattr("mlcak_hf.prediction.tables.write_predictions", interrupted)
    code, _, err = mlcak("predict", model_folder, phantoms / "test")
    assert code == 130
    assert "Stopped. 4 found: 1 predicted, 0 refused, 0 unreadable." in err


def test_the_closing_line_counts_every_entry_and_unreadable_folders_are_rows(
    mlcak, phantoms, model_folder, tmp_path, monkeypatch
):
    folder = tmp_path / "in"
    shutil.copytree(phantoms / "test", folder)
    for name in ("a.bmp", "b.BMP", "c.tif", "DICOMDIR", "README"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.dcm").symlink_to(tmp_path / "nowhere")
    (folder / "closed").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, out, err = mlcak("predict", model_folder, folder, "--format", "json")
    assert code == 1
    assert "6 found: 4 predicted, 0 refused, 2 unreadable. Skipped: 2 .bmp, 1 .tif, 1 DICOMDIR, 1 no suffix." in err
    errors = {Path(row["file"]).name: row["error"] for row in json.loads(out) if row["error"]}
    assert errors == {
        "closed": "The folder cannot be opened (Permission denied).",
        "gone.dcm": "The link is broken (No such file or directory).",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_the_name_of_a_file_need_not_be_valid_text(mlcak, phantoms, model_folder, tmp_path):
    source = next((phantoms / "test").glob("*.dicom"))
    shutil.copy(source, os.fsdecode(bytes(tmp_path / "Gr") + b"\xf6\xdfe.dcm"))
    for name in ("p.csv", "p.json", "p.txt"):
        assert mlcak("predict", model_folder, tmp_path, "--output", tmp_path / name)[0] == 0
        assert "Gr\\udcf6\\udcdfe.dcm" in (tmp_path / name).read_text()
    assert "Gr\\udcf6\\udcdfe.dcm" in mlcak("predict", model_folder, tmp_path)[1]


def test_skipped_kinds_alone_leave_exit_code_0_and_a_refused_file_does_not(mlcak, phantoms, model_folder, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(phantoms / "test", folder)
    (folder / "a.bmp").write_bytes(b"x")
    assert mlcak("predict", model_folder, folder)[0] == 0
    Image.new("L", (90, 90), 130).save(folder / "flat.png")
    code, _, err = mlcak("predict", model_folder, folder)
    assert code == 1
    assert "5 found: 4 predicted, 1 refused, 0 unreadable. Skipped: 1 .bmp." in err
