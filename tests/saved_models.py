"""A saved model with its card, for the tests of what is made of one."""

from mlcak_hf.deployment.model_card import card_for_folder

# A training.json, as the script for students writes it.
RECORD = {
    "script": "distil_student",
    "model": {
        "distilled": True,
        "initial_weights": "random",
        "backbone_on_hub": False,
        "model": "student-tiny-28",
        "backbone": None,
        "teacher": ["teacher-224"],
        "teacher_cache": None,
        "teacher_weights": None,
        "local_loss_weight": 0.5,
    },
    "data": {"dataset": "phantoms", "preparation": {"aggregation": "majority"}},
    "views": {"rotation_deg": 10.0, "shift": 0.05},
    "arguments": {
        "alpha": 1.0,
        "beta": 0.5,
        "gamma": 2.0,
        "logit_loss": "mse",
        "attention_loss": "kl",
        "attention_aggregation": "mean",
        "gradient_accumulation_steps": 4,
        "per_device_train_batch_size": 32,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.05,
        "seed": 7,
    },
    "train": {
        "rows": 600,
        "global": {"Normal": 400, "Abnormal": 200},
        "local": {"Edema": [50, 600], "ILD": [0, 0], "Rib fracture": [0, 600], "Emphysema": [3, 600]},
    },
    "validation": {"rows": 100, "global": {"Normal": 60, "Abnormal": 40}},
    "epochs": 12.0,
    "steps": 240,
}


def save_with_card(model, processor, folder):
    """Save a model as a training script does, with the card of `mlcak card`."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    card_for_folder(folder).save(folder / "README.md")
    return folder
