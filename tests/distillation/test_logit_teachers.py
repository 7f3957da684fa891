"""Teachers of other architectures: read as their own library reads them, sharing the work with MLCAK teachers."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from toys import FINDINGS, make_trainer, processor, toy_cnn, toy_model, toy_rows
from transformers import (
    AutoImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.attention import AttentionOptions
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.cache.store import CACHE_FILE
from mlcak_hf.distillation.teacher_files import make_teacher_processor, teacher_config
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.errors import CacheError, DistillationError

LOGITS_ONLY = AttentionOptions(enabled=False)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def classifier(labels, channels=3, seed=0, **config):
    torch.manual_seed(seed)
    config = ResNetConfig(num_channels=channels, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                          layer_type="basic", id2label=dict(enumerate(labels)), **config)  # fmt: skip
    return ResNetForImageClassification(config).eval()


def save(model, folder, **settings):
    model.save_pretrained(folder)
    known = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True}
    known |= {"rescale_factor": 1 / 255, "size": {"height": 32, "width": 32}, "resample": 3} | IMAGENET | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(known))
    return str(folder)


def sees(source, image, student):
    made = make_teacher_processor(source, teacher_config(source), processor(16))
    collator = MLCAKCollator(processor(16), made)
    return collator([{"image": image}])["teacher_pixel_values"]


# Input


def test_a_teachers_pixels_are_those_of_its_own_processor(tmp_path):
    """An image of its size, which neither resizes."""
    source = save(classifier(["Normal", "Abnormal"]), tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    expected = AutoImageProcessor.from_pretrained(source)(Image.fromarray(grey).convert("RGB"), return_tensors="pt")
    torch.testing.assert_close(sees(source, grey, processor(16)), expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "factor", "offset"),
    [
        ({"do_normalize": False}, 1.0, 0.0),
        ({"do_normalize": False, "do_rescale": False}, 255.0, 0.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 2.0, -1.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "include_top": True}, 4.0, -2.0),
        ({"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 127.5}, 2.0, -1.0),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32, "do_normalize": False}, 1.0, 0.0),
    ],
)
def test_settings_of_other_processors_are_translated(tmp_path, settings, factor, offset):
    source = save(classifier(["Normal", "Abnormal"]), tmp_path, **settings)
    grey = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    expected = torch.from_numpy(grey * factor + offset).expand(1, 3, 32, 32)
    torch.testing.assert_close(sees(source, grey, processor(16)), expected, rtol=1e-5, atol=1e-5)


def test_a_grey_teacher_with_this_packages_processor_keeps_it(tmp_path):
    classifier(["Normal", "Abnormal"], channels=1).save_pretrained(tmp_path)
    processor(24).save_pretrained(tmp_path)
    assert sees(str(tmp_path), np.zeros((24, 24), np.uint8), processor(16)).shape == (1, 1, 24, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 32, "width": 24}}, "its size must be one square"),
        ({"image_mean": [0.5], "image_std": [0.5]}, "must have 3 mean"),
        ({"image_mean": None}, "no image_mean"),
        ({"rescale_offset": True}, "rescale_offset must be false"),
    ],
)
def test_an_input_that_cannot_be_made_is_refused(tmp_path, settings, message):
    source = save(classifier(["Normal", "Abnormal"]), tmp_path, **settings)
    with pytest.raises(DistillationError, match=message):
        Teachers(source, toy_model(), LOGITS_ONLY)


# Logits


def test_logits_are_those_of_the_classifier_in_the_order_of_the_student(tmp_path):
    """Its softmax has the student's classes in another order, and no finding."""
    model = classifier(["Abnormal", "Normal"])
    teachers = Teachers(save(model, tmp_path), toy_model(), LOGITS_ONLY)
    pixels = torch.rand(3, 3, 32, 32)
    found = teachers({"teacher_pixel_values": pixels})
    torch.testing.assert_close(found.logits, model(pixels).logits[:, [1, 0]])
    assert found.local_logits is None
    assert (teachers.global_columns, teachers.local_columns) == ([0, 1], [])


def test_other_families_teach_too(tmp_path):
    config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], id2label={0: "Normal", 1: "Abnormal"})
    teachers = Teachers(save(ConvNextForImageClassification(config), tmp_path), toy_model(), LOGITS_ONLY)
    assert teachers({"teacher_pixel_values": torch.rand(2, 3, 32, 32)}).logits.shape == (2, 2)


def test_findings_that_no_teacher_knows_do_not_count(tmp_path):
    """The distance of local logits is the mean over the one finding that is taught."""
    source = save(classifier([FINDINGS[1]]), tmp_path)
    collator = MLCAKCollator(processor(16), make_teacher_processor(source, teacher_config(source), processor(16)))
    rows = toy_rows(4)
    trainer = make_trainer(
        tmp_path / "run", toy_model(seed=1), source, rows, collator, gamma=0.0, per_device_train_batch_size=4
    )
    batch, model = collator(rows), trainer.model
    outputs, known = model(batch["pixel_values"]), trainer.teachers(batch)
    parts = trainer._objective.distillation(outputs, known, 4, None)
    assert set(parts) == {"distil_local"}
    expected = (outputs.local_logits[:, 1] - known.local_logits[:, 1]).pow(2).mean()
    torch.testing.assert_close(parts["distil_local"], expected)


def test_a_trained_cnn_teaches_its_own_labels():
    teachers = Teachers(toy_cnn(24), toy_model(), LOGITS_ONLY)
    found = teachers({"teacher_pixel_values": torch.rand(2, 1, 24, 24)})
    assert (found.logits.shape, found.local_logits.shape, found.attention) == ((2, 2), (2, 3), None)


# Both kinds together


def test_a_cnn_gives_the_logits_and_an_mlcak_teacher_the_attention():
    cnn, vit, student = toy_cnn(24), toy_model(32, 4, layers=4, seed=2), toy_model(seed=1)
    pixels = {"teacher_pixel_values": torch.rand(2, 1, 24, 24), "teacher_pixel_values_2": torch.rand(2, 1, 32, 32)}
    found = Teachers([cnn, vit], student)(pixels)
    alone = Teachers(vit, student)({"teacher_pixel_values": pixels["teacher_pixel_values_2"]})
    torch.testing.assert_close(found.logits, cnn(pixels["teacher_pixel_values"]).logits)
    torch.testing.assert_close(found.attention, alone.attention)
    assert not torch.allclose(found.logits, alone.logits)


def test_labels_that_a_cnn_does_not_know_come_from_the_mlcak_teacher(tmp_path):
    source, vit = save(classifier([FINDINGS[1]]), tmp_path), toy_model(32, 4, layers=4, seed=2)
    pixels = {"teacher_pixel_values": torch.rand(2, 1, 32, 32), "teacher_pixel_values_2": torch.rand(2, 3, 32, 32)}
    teachers = Teachers([vit, source], toy_model(seed=1))
    found, own = teachers(pixels), vit(pixels["teacher_pixel_values"])
    torch.testing.assert_close(found.logits, own.logits)
    torch.testing.assert_close(found.local_logits[:, [0, 2]], own.local_logits[:, [0, 2]])
    torch.testing.assert_close(
        found.local_logits[:, 1:2], classifier([FINDINGS[1]])(pixels["teacher_pixel_values_2"]).logits
    )


def test_each_label_is_the_mean_over_the_teachers_that_know_it(tmp_path):
    first = save(classifier(FINDINGS[:2], problem_type="multi_label_classification"), tmp_path / "first")
    second = save(classifier([FINDINGS[1]], seed=1), tmp_path / "second")
    pixels = torch.rand(2, 3, 32, 32)
    found = Teachers([first, second], toy_model(), LOGITS_ONLY)(
        {"teacher_pixel_values": pixels, "teacher_pixel_values_2": pixels}
    )
    ours = classifier(FINDINGS[:2])(pixels).logits
    both = (ours[:, 1:] + classifier([FINDINGS[1]], seed=1)(pixels).logits) / 2
    torch.testing.assert_close(found.local_logits[:, :2], torch.cat([ours[:, :1], both], 1))


def test_a_cache_holds_both_kinds_and_says_which_gave_what(tmp_path):
    cnn, vit, student = tmp_path / "cnn", tmp_path / "vit", toy_model(seed=1)
    source = save(classifier(["Abnormal", "Normal", FINDINGS[1]]), cnn)
    toy_model(32, 4, layers=4, seed=2).save_pretrained(vit)
    processors = [make_teacher_processor(source, teacher_config(source), processor(16)), processor(32)]
    collator, rows = MLCAKCollator(processor(16), processors, ViewParameters()), toy_rows(6)
    teachers = Teachers([source, str(vit)], student)
    kept = build_teacher_cache(tmp_path / "cache", teachers, rows, collator, CacheOptions(1, progress_bar=False))
    expected, found = Teachers([source, str(vit)], student)(collator(rows)), kept.read(range(6), 0)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.local_logits, expected.local_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.attention.float(), expected.attention, rtol=1e-3, atol=1e-6)
    taught = json.loads((tmp_path / "cache" / CACHE_FILE).read_text())["taught"]
    assert taught[0] == {"global_labels": [True, True], "local_labels": [False, True, False], "attention": False}
    assert taught[1] == {"global_labels": [False, False], "local_labels": [True, False, True], "attention": True}
    alone = make_trainer(tmp_path / "run", student, None, rows, collator, teacher_cache=kept, num_train_epochs=1)
    alone.train()
    assert {"distil_global", "distil_local", "distil_attention"} <= set(alone.state.log_history[0])


def test_a_cache_of_matched_labels_is_refused_for_a_student_with_others(tmp_path):
    source, rows = save(classifier([FINDINGS[1]]), tmp_path / "cnn"), toy_rows(6)
    collator = MLCAKCollator(processor(16), make_teacher_processor(source, teacher_config(source), processor(16)))
    teachers, options = Teachers(source, toy_model(), LOGITS_ONLY), CacheOptions(1, progress_bar=False)
    kept = build_teacher_cache(tmp_path / "cache", teachers, rows, collator, options)
    assert kept.record.names == ("local_logits",)
    make_trainer(tmp_path / "run", toy_model(seed=1), None, rows, collator, teacher_cache=kept, gamma=0.0)
    with pytest.raises(CacheError, match=r"labels, local: expected \[Nodule/Mass, Pneumothorax\], found"):
        make_trainer(
            tmp_path / "run", toy_model(findings=FINDINGS[:2]), None, rows, collator, teacher_cache=kept, gamma=0.0
        )


# Functions


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a module of teachers into the current folder."""

    def write(text: str) -> None:
        (tmp_path / "own_teachers.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
        sys.modules.pop("own_teachers", None)

    yield write
    sys.modules.pop("own_teachers", None)


def test_a_function_in_the_current_folder_teaches_by_its_labels(package):
    package(
        "def brightness(x):\n    return x.mean((2, 3))\nbrightness.labels, brightness.image_size = ['Abnormal'], 20\n"
    )
    teachers = Teachers("own_teachers:brightness", toy_model(), LOGITS_ONLY)
    made = make_teacher_processor("own_teachers:brightness", teachers.configs[0], processor(16))
    batch = MLCAKCollator(processor(16), made)([{"image": np.full((40, 40), 0.25, np.float32)}])
    assert batch["teacher_pixel_values"].shape == (1, 1, 20, 20)
    torch.testing.assert_close(teachers(batch).logits, torch.tensor([[-0.125, 0.125]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a function that can be imported.*brightness"),
        ("import nothing_like_this\n", "must be a function that can be imported.*nothing_like_this"),
        ("brightness = 3\n", "must be a function; got a int"),
        ("def brightness(x):\n    return x\n", "must have the attribute `labels`"),
        ("def brightness(x):\n    return x\nbrightness.labels = ['Edema']\n", r"label in common.*got \['Edema'\]"),
    ],
)
def test_a_function_that_cannot_teach_is_refused_before_training(package, text, message):
    package(text)
    with pytest.raises(DistillationError, match=message):
        Teachers("own_teachers:brightness", toy_model(), LOGITS_ONLY)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("x.mean((1, 2, 3))", r"must return logits of shape \(2, 1\).*got \(2,\)"),
        ("None", "got NoneType"),
        ("int('a')", "it failed: invalid literal"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(package, returned, message):
    package(f"def brightness(x):\n    return {returned}\nbrightness.labels = ['Abnormal']\n")
    teachers = Teachers("own_teachers:brightness", toy_model(), LOGITS_ONLY)
    with pytest.raises(DistillationError, match=message):
        teachers({"teacher_pixel_values": torch.rand(2, 1, 16, 16)})


# Bad input


def test_a_teacher_without_a_common_label_is_refused(tmp_path):
    source = save(classifier(["cat", "dog"]), tmp_path)
    with pytest.raises(DistillationError, match=r"label in common.*\['cat', 'dog'\].*'Abnormal'.*matched by name"):
        Teachers(source, toy_model(), LOGITS_ONLY)


def test_only_cnns_while_attention_is_taught_are_refused(tmp_path):
    source = save(classifier(["Normal", "Abnormal"]), tmp_path)
    with pytest.raises(DistillationError, match=r"gamma must be 0.*ResNetForImageClassification.*a resnet.*--gamma 0"):
        Teachers([source, toy_cnn()], toy_model())
    with pytest.raises(DistillationError, match="gamma must be 0 for a student without attention"):
        Teachers(toy_model(), toy_cnn())


def test_an_mlcak_teacher_that_would_teach_nothing_is_refused():
    with pytest.raises(DistillationError, match="nothing to add"):
        Teachers([toy_cnn(), toy_model()], toy_model(seed=1), LOGITS_ONLY)


def test_a_model_that_is_no_classifier_is_refused(tmp_path):
    classifier(["Normal", "Abnormal"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DistillationError, match="must be an image classifier; got model_type 'bert'"):
        Teachers(str(tmp_path), toy_model(), LOGITS_ONLY)
