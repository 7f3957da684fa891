"""The card says what the explanation maps of a model are worth, in the words of the measured record."""

import pytest
from huggingface_hub import ModelCard

from mlcak_hf.deployment.card_sections import add_explanations
from mlcak_hf.errors import MLCAKError
from mlcak_hf.evaluation.explanations.map_report import Explanations, MapReport, MapScore, Measured
from mlcak_hf.weights import weights_digest

CARD = "---\nlanguage: en\n---\n\n# student\n\n## Evaluation\n\nNot measured.\n\n## Limits\n\n- Some.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def record(folder, gain, weights=None):
    """Attention with 20 % of it in the boxes, against a mean map that is better or worse."""
    floors = {"mean map": Measured(0.2 - gain)}
    score = MapScore(
        "all",
        "",
        "attention",
        "energy",
        50,
        40,
        Measured(0.2),
        floors,
        {"mean map": Measured(gain)},
        {"mean map": 0.01},
    )
    report = MapReport("student", (weights or weights_digest(folder),), 50, 45, 40, (score,), {}, {}, {}, (), None)
    Explanations((report,), 2000, 0, {"dataset": "phantoms", "split": "test"}).to_json(folder / "explanations.json")
    return folder / "explanations.json"


@pytest.mark.parametrize(("gain", "worse"), [(-0.05, True), (0.05, False)])
def test_the_card_says_whether_attention_loses_to_the_mean_map(folder, gain, worse):
    card = ModelCard(CARD)
    add_explanations(card, folder, record(folder, gain), "student")
    sections = card.content.split("\n## ")
    assert [section.split("\n")[0] for section in sections[1:]] == ["Evaluation", "Explanations", "Limits"]
    assert "50 findings in 45 images of 40 patients (test of phantoms)" in sections[2]
    assert ("find the boxes worse than their mean map" in sections[2]) == worse
    assert ("beats the mean map" in sections[2]) != worse
    assert sections[3] == "Limits\n\n- Some.\n"


def test_explanations_of_other_weights_are_refused(folder):
    with pytest.raises(MLCAKError, match="The explanations of 'student' were measured with different weights"):
        add_explanations(ModelCard(CARD), folder, record(folder, 0.1, weights="other"), "student")
