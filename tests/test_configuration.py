"""MLCAKConfig: strict fields, derived labels, nested backbone, round trip."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, DeiTConfig, Dinov2Config, ViTConfig

from mlcak_hf import VINDR_CXR_FINDINGS, MLCAKConfig, MLCAKForCXRClassification

TINY = {"image_size": 16, "patch_size": 4, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 2}


def test_defaults_are_the_28_px_student_of_vindr_cxr():
    config = MLCAKConfig()
    assert (config.image_size, config.patch_size, config.num_channels) == (28, 4, 1)
    assert config.local_labels == list(VINDR_CXR_FINDINGS)
    assert len(set(VINDR_CXR_FINDINGS)) == config.num_local_labels == 22
    assert config.id2label == {0: "Normal", 1: "Abnormal"}
    assert config.label2id == {"Normal": 0, "Abnormal": 1}
    assert config.num_labels == 2
    assert config.problem_type == "single_label_classification"
    assert config.resolved_attention_levels == list(range(12))


def test_defaults_are_not_shared_between_configurations():
    first, second = MLCAKConfig(), MLCAKConfig()
    first.local_labels.append("x")
    first.id2label[0] = "y"
    first.backbone_config.image_size = 56
    assert second.num_local_labels == 22
    assert second.id2label[0] == "Normal"
    assert second.image_size == 28


@pytest.mark.parametrize(
    ("backbone", "prefix"),
    [
        ({"model_type": "vit", **TINY}, 1),
        ({"model_type": "deit", **TINY}, 2),
        ({"model_type": "dinov2", **TINY}, 1),
        ({"model_type": "dinov2_with_registers", **TINY, "num_register_tokens": 3}, 4),
        (ViTConfig(**TINY), 1),
        (DeiTConfig(**TINY), 2),
        (Dinov2Config(**TINY), 1),
    ],
)
def test_round_trip_keeps_every_field(backbone, prefix, tmp_path):
    config = MLCAKConfig(
        backbone_config=backbone,
        local_labels=["Nodule/Mass", "Edema"],
        local_loss_weight=2,
        attention_levels=[-1, 0],
        id2label={0: "a", 1: "b", 2: "c"},
        problem_type="multi_label_classification",
    )
    config.save_pretrained(tmp_path)
    for loaded in (MLCAKConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is MLCAKConfig
        assert loaded.to_diff_dict() == config.to_diff_dict()
        assert type(loaded.backbone_config) is type(config.backbone_config)
        assert loaded.resolved_attention_levels == [0, 3]
        assert loaded.num_prefix_tokens == prefix
        assert loaded.label2id == {"a": 0, "b": 1, "c": 2}


def test_backbone_object_is_copied():
    backbone = ViTConfig(**TINY)
    config = MLCAKConfig(backbone_config=backbone)
    config.backbone_config.image_size = 32
    assert backbone.image_size == 16


@pytest.mark.parametrize("model_type", ["vit", "deit", "dinov2", "dinov2_with_registers"])
def test_a_dict_with_only_a_model_type_takes_its_defaults(model_type):
    given = {"model_type": model_type}
    config = MLCAKConfig(backbone_config=given)
    assert config.backbone_config.to_dict() == CONFIG_MAPPING[model_type]().to_dict()
    assert given == {"model_type": model_type}, "left as it was"


def test_label2id_follows_every_way_of_naming_labels(tmp_path):
    MLCAKConfig(backbone_config={"model_type": "vit", **TINY}).save_pretrained(tmp_path)
    loaded = MLCAKConfig.from_pretrained(tmp_path, id2label={0: "x", 1: "y", 2: "z"})
    assert loaded.label2id == {"x": 0, "y": 1, "z": 2}
    assert loaded.num_labels == 3
    assert MLCAKConfig(num_labels=2).label2id == {"Normal": 0, "Abnormal": 1}
    assert MLCAKConfig(num_labels=3).num_labels == 3
    assert MLCAKConfig(id2label={"0": "n", "1": "p"}).label2id == {"n": 0, "p": 1}
    # A contradicting inverse is not believed.
    assert MLCAKConfig(label2id={"Normal": 1, "Abnormal": 0}).label2id == {"Normal": 0, "Abnormal": 1}


STRING_KEYS = {"0": "n", "1": "p"}


def test_string_keys_of_id2label_become_integers_wherever_they_are_given(tmp_path):
    MLCAKConfig().save_pretrained(tmp_path)
    assigned = MLCAKConfig()
    assigned.id2label = STRING_KEYS
    configs = [
        MLCAKConfig(id2label=STRING_KEYS),
        MLCAKConfig.from_pretrained(tmp_path, id2label=STRING_KEYS),
        AutoConfig.from_pretrained(tmp_path, id2label=STRING_KEYS),
        assigned,
    ]
    for config in configs:
        config.validate()
        assert (config.id2label, config.label2id) == ({0: "n", 1: "p"}, {"n": 0, "p": 1})


def test_global_labels_are_ordered_by_their_index():
    assert MLCAKConfig(id2label={2: "c", 0: "a", 1: "b"}).global_labels == ["a", "b", "c"]


def test_no_local_head_and_square_pairs():
    config = MLCAKConfig(backbone_config={"model_type": "vit", **TINY, "image_size": [16, 16]}, local_labels=[])
    assert config.num_local_labels == 0
    assert config.image_size == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_labels": ["a", "b", "a"]}, r"unique.*\['a', 'b', 'a'\]"),
        ({"local_labels": ["a", " "]}, "non-empty"),
        ({"local_labels": [1]}, "local_labels"),
        ({"local_labels": "Edema"}, "local_labels"),
        ({"local_loss_weight": -0.5}, "local_loss_weight must be a finite number >= 0; got -0.5"),
        ({"local_loss_weight": float("nan")}, "local_loss_weight"),
        ({"local_loss_weight": "1"}, "local_loss_weight"),
        ({"attention_levels": [4]}, r"4 layers.*got \[4\]"),
        ({"attention_levels": [-5]}, "from -4 to 3"),
        ({"attention_levels": []}, "at least one"),
        ({"attention_levels": [3, -1]}, "each at most once"),
        ({"attention_levels": ["last"]}, "attention_levels"),
        ({"patch_embedding": "resnet"}, "patch_embedding"),
        ({"patch_embedding": "conv", "trunk_widths": []}, r"one or more positive multiples of 8; got \[\]"),
        ({"patch_embedding": "conv", "trunk_widths": [8, 12, 8]}, r"trunk_widths .* multiples of 8; got \[8, 12, 8\]"),
        ({"patch_embedding": "conv", "trunk_widths": [0, 8, 8]}, "positive multiples of 8"),
        ({"patch_embedding": "conv", "trunk_widths": [8, 16]}, "a power of 2 from 1 to 2 for image_size=16 .* got 4"),
        (
            {"patch_embedding": "conv", "backbone_config": {"model_type": "vit", "image_size": 28, "patch_size": 7}},
            "got 7",
        ),
        (
            {"patch_embedding": "conv", "backbone_config": {"model_type": "vit", "patch_size": 2}},
            "from 4 to 16 .* got 2",
        ),
        ({"trunk_widths": 64}, "trunk_widths"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"problem_type": None}, "problem_type"),
        ({"id2label": {1: "a", 2: "b"}}, r"keys 0, 1, \.\.\., n-1"),
        ({"id2label": {0: "a", 1: "a"}}, "unique names"),
        ({"output_attentions": True}, "each call"),
        ({"backbone_config": {"model_type": "vit", "image_size": 30, "patch_size": 4}}, "image_size=30 and patch"),
        ({"backbone_config": {"model_type": "vit", "image_size": [28, 56], "patch_size": 4}}, "a square"),
    ],
)
def test_bad_fields_are_named(fields, message):
    fields = {"backbone_config": {"model_type": "vit", **TINY}} | fields
    with pytest.raises(StrictDataclassError, match=message):
        MLCAKConfig(**fields)


@pytest.mark.parametrize("backbone", [{}, {"image_size": 28}, {"model_type": "swin"}, "vit", 3])
def test_unknown_backbones_name_the_known_ones(backbone):
    with pytest.raises(ValueError, match=r"\['convnext', 'deit', .*'regnet', 'resnet', 'vit'\]; got"):
        MLCAKConfig(backbone_config=backbone)


def test_a_single_global_label_needs_the_multi_label_type():
    for one_label in ({"id2label": {0: "Abnormal"}}, {"num_labels": 1}):
        with pytest.raises(ValueError, match=r"num_labels must be at least 2 .* got 1\. Use num_labels=2"):
            MLCAKConfig(**one_label)
    assert MLCAKConfig(id2label={0: "Abnormal"}, problem_type="multi_label_classification").num_labels == 1


def test_one_global_label_is_refused_when_a_model_is_loaded_with_it(tmp_path):
    MLCAKForCXRClassification(MLCAKConfig(backbone_config={"model_type": "vit"} | TINY)).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="num_labels must be at least 2"):
        MLCAKForCXRClassification.from_pretrained(tmp_path, num_labels=1)


def test_validation_runs_again_when_saved(tmp_path):
    config = MLCAKConfig()
    config.attention_levels = [40]
    with pytest.raises(StrictDataclassError, match="12 layers"):
        config.save_pretrained(tmp_path)
