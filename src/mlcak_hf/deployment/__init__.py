"""A trained model on its way to others: the model card and the Hub. Datasets: only after an acknowledgement."""

from mlcak_hf.deployment.measurements import Evaluation, Measurement
from mlcak_hf.deployment.model_card import card_for_folder, create_model_card
from mlcak_hf.deployment.publish import model_files, push_to_hub, save_for_hub
from mlcak_hf.deployment.publish_dataset import is_prepared_dataset, push_dataset_to_hub
from mlcak_hf.deployment.training_record import TrainingRecord

__all__ = [
    "Evaluation",
    "Measurement",
    "TrainingRecord",
    "card_for_folder",
    "create_model_card",
    "is_prepared_dataset",
    "model_files",
    "push_dataset_to_hub",
    "push_to_hub",
    "save_for_hub",
]
