"""A trained model on its way to others: the model card and the Hub."""

from mlcak_hf.deployment.measurements import Evaluation, Measurement
from mlcak_hf.deployment.model_card import create_model_card
from mlcak_hf.deployment.publish import model_files, push_to_hub, save_for_hub

__all__ = ["Evaluation", "Measurement", "create_model_card", "model_files", "push_to_hub", "save_for_hub"]
