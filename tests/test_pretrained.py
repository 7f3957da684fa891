"""Folders that hold no model, or a damaged one, or one without its image processor."""

import pytest
from tiny_models import tiny_model
from transformers import ViTConfig

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.distillation.teachers import load_teacher, teacher_config
from mlcak_hf.errors import DistillationError, RecipeError
from mlcak_hf.pretrained import load_model, load_processor


def test_errors_of_other_libraries_become_one_sentence(tmp_path):
    tiny_model().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for load in (load_teacher, teacher_config):
        with pytest.raises(DistillationError, match="cut' cannot be loaded"):
            load(tmp_path / "cut")
    ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(RecipeError, match="must be 'mlcak'; got 'vit'"):
        load_model(tmp_path / "vit")
    config = tiny_model().config
    with pytest.raises(RecipeError, match=r"vit.* has no preprocessor_config\.json"):
        load_processor(tmp_path / "vit", config)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "cut")
    with pytest.raises(RecipeError, match=r"= \(1, 16, 16\); got \(1, 8, 8\)"):
        load_processor(tmp_path / "cut", config)
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "mlcak", "local_loss_weight": -1}')
    with pytest.raises(RecipeError, match="local_loss_weight"):
        load_model(tmp_path / "vit")
