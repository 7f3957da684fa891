"""The model under transformers' own Trainer, without anything of this package's training."""

import numpy as np
import pytest
from tiny_models import FINDINGS, images, tiny_model
from transformers import Trainer, TrainingArguments

LABELS = [0, 1, 1, 0, 1, 0]


def accuracy(prediction):
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return {"accuracy": float(np.mean(np.argmax(logits, axis=-1) == prediction.label_ids))}


def plain_trainer(folder, findings, rows):
    args = TrainingArguments(
        folder,
        max_steps=4,
        per_device_train_batch_size=3,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = tiny_model(local_labels=findings)
    return Trainer(model, args, train_dataset=rows, eval_dataset=rows, compute_metrics=accuracy)


@pytest.mark.parametrize("findings", [[], FINDINGS])
def test_labels_alone_give_a_loss_metrics_and_the_best_model(tmp_path, findings):
    rows = [{"pixel_values": pixels, "labels": label} for pixels, label in zip(images(6), LABELS, strict=True)]
    trainer = plain_trainer(tmp_path, findings, rows)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    output = trainer.model(images(6))
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == np.mean(output.logits.argmax(dim=-1).numpy() == LABELS)
    assert metrics["eval_loss"] > 0
    predictions = trainer.predict(rows).predictions
    assert isinstance(predictions, tuple if findings else np.ndarray)


def test_the_trainer_does_not_remove_the_targets_of_the_findings(tmp_path):
    """By default it removes every input that `forward` does not name."""
    rows = [{"pixel_values": images(1)[0], "labels": 1, "local_targets": [1.0, 0.0, -1.0]}] * 3
    trainer = plain_trainer(tmp_path, FINDINGS, rows)
    (batch,) = trainer.get_eval_dataloader()
    output = trainer.model.eval()(**batch)
    assert trainer.evaluate()["eval_loss"] == pytest.approx((output.global_loss + output.local_loss).item(), abs=1e-6)
