"""CNNs are trained, resumed, distilled and evaluated like other models, but BatchNorm sees micro-batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from toys import (
    KeepGradients,
    StopAt,
    assert_close,
    both_kinds,
    make_trainer,
    processor,
    toy_cnn,
    toy_collator,
    toy_model,
    toy_rows,
    weights_of,
)

from mlcak_hf import MLCAKForCXRClassification, RadiographPredictor
from mlcak_hf.errors import MLCAKError

ROWS = toy_rows(10, seed=5)
ADAM = {"optim": "adamw_torch", "num_train_epochs": 3, "lr_scheduler_type": "cosine"}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_cnn_resumes_bit_for_bit_with_the_statistics_of_its_batches(tmp_path, ema_decay):
    choices = ADAM | {"teacher": None, "collator": toy_collator(24, None), "ema_decay": ema_decay}
    whole = make_trainer(tmp_path / "whole", toy_cnn(seed=1), **choices)
    whole.train()
    make_trainer(tmp_path / "parts", toy_cnn(seed=1), callbacks=[StopAt(4)], **choices).train()
    resumed = make_trainer(tmp_path / "parts", toy_cnn(seed=2), **choices)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(whole)[name]), name
    assert any("running_var" in name for name in weights_of(whole))


def test_an_average_of_the_weights_has_averaged_statistics(tmp_path):
    model = toy_cnn(seed=1)
    first = model.state_dict()["backbone.embedder.embedder.normalization.running_mean"].clone()
    trainer = make_trainer(tmp_path, model, None, collator=toy_collator(24, None), ema_decay=0.999, max_steps=1)
    trainer.add_callback(keep := KeepStatistics())
    trainer.train()
    last = model.state_dict()["backbone.embedder.embedder.normalization.running_mean"]
    torch.testing.assert_close(last, first + (1 - 2 / 11) * (keep.trained - first))


class KeepStatistics(KeepGradients):
    """Keeps the statistics of the trained model after a step."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trained = model.state_dict()["backbone.embedder.embedder.normalization.running_mean"].clone()


@pytest.mark.parametrize(("model_type", "warned"), [("resnet", True), ("convnext", False)])
def test_batch_norm_with_accumulation_warns_once(tmp_path, caplog, model_type, warned):
    make_trainer(
        tmp_path, toy_cnn(model_type=model_type), None, collator=toy_collator(24, None), gradient_accumulation_steps=2
    )
    assert sum("are not exact" in record.message for record in caplog.records) == warned


def test_a_student_of_both_kinds_is_exact_under_accumulation(tmp_path):
    """The teachers' BatchNorm is only evaluated: one batch of ten equals batches of four, four and two."""
    results = []
    for size, steps in ((10, 1), (4, 3)):
        keep, (teachers, collator) = KeepGradients(), both_kinds()
        trainer = make_trainer(
            tmp_path, toy_model(seed=1), teachers, ROWS, collator, [keep], num_train_epochs=2,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.train()
        results.append((keep.steps, weights_of(trainer)))
    (one, weights), (several, other_weights) = results
    assert len(one) == len(several) == 2
    for ours, theirs in zip(several, one, strict=True):
        assert_close(ours, theirs)
    assert_close(other_weights, weights)


def test_a_student_of_both_kinds_resumes_bit_for_bit(tmp_path):
    def run(folder, callbacks=None, resume=False):
        teachers, collator = both_kinds()
        trainer = make_trainer(folder, toy_model(seed=1, dropout=0.2), teachers, ROWS, collator, callbacks, **ADAM)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer)

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", [StopAt(4)])
    for name, weight in run(tmp_path / "parts", resume=True).items():
        assert torch.equal(weight, whole[name]), name


def test_teachers_stay_as_they_were(tmp_path):
    (cnn, vit), collator = both_kinds()
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    make_trainer(tmp_path, toy_model(seed=1), [cnn, vit], ROWS, collator, num_train_epochs=1).train()
    for name, value in cnn.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("model_type", ["resnet", "regnet", "convnext"])
def test_a_saved_cnn_loads_with_the_same_bits(tmp_path, model_type):
    model = toy_cnn(model_type=model_type, findings=["Edema"]).eval()
    model.save_pretrained(tmp_path)
    again, pixels = MLCAKForCXRClassification.from_pretrained(tmp_path), torch.rand(2, 1, 24, 24)
    assert torch.equal(again(pixels).logits, model(pixels).logits)
    assert torch.equal(again(pixels).local_logits, model(pixels).local_logits)
    with pytest.raises(ValueError, match="a CNN has no attention"):
        again(pixels, output_attentions=True)


def test_a_cnn_predicts_without_heatmaps(tmp_path):
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).save(tmp_path / "chest.png")
    predictor = RadiographPredictor(toy_cnn(24), processor(24), device="cpu")
    (prediction,) = predictor.predict([tmp_path / "chest.png"])
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert len(prediction.findings) == 3
    for shown in ({"attention": True}, {"heatmaps_dir": tmp_path / "heatmaps"}):
        with pytest.raises(MLCAKError, match="need a model with attention; got a CNN"):
            predictor.predict([tmp_path / "chest.png"], **shown)


@pytest.mark.parametrize(
    "fields",
    [{"patch_embedding": "conv"}, {"attention_levels": [0]}, {"backbone": {"image_size": 0}}],
    ids=["trunk", "levels", "size"],
)
def test_options_of_attention_are_refused_for_a_cnn(fields):
    backbone = {"model_type": "resnet", "image_size": 24, "num_channels": 1} | fields.pop("backbone", {})
    with pytest.raises(Exception, match=r"convolutional backbone|image_size must be at least 1"):
        MLCAKForCXRClassification.config_class(backbone_config=backbone, **fields)
