"""The running summary: counts, and scores beside those that are expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlcak_hf.errors import DeploymentError
from mlcak_hf.prediction.reading import Prediction
from mlcak_hf.prediction.tables import write_predictions
from mlcak_hf.serving.results import Results
from mlcak_hf.serving.summary import RunningSummary, drift_p_value


def scored(score: float, **fields: str) -> Prediction:
    return Prediction(Path("x.png"), {"Normal": 1 - score, "Abnormal": score}, **fields)


def test_outcomes_reasons_and_scores_are_counted(predictor) -> None:
    summary = RunningSummary(predictor)
    summary.add("HTTP", [scored(0.91), scored(0.92, warning="too small (9 x 9 px); in colour"), scored(1.0)])
    summary.add(
        "DICOM", [Prediction(Path("y"), error="Broken (a). Do b."), Prediction(Path("z"), refused_because="dark")]
    )
    summary.turn_away("HTTP 413: too large")
    counts = summary.as_dict()
    assert counts["outcomes"] == {"HTTP": {"predicted": 3}, "DICOM": {"unreadable": 1, "refused": 1}}
    assert counts["reasons"]["Warnings"] == {"too small": 1, "in colour": 1}
    assert counts["reasons"]["Unreadable"] == {"Broken": 1}
    assert counts["scores"]["Abnormal"][18:] == [2, 1]
    assert counts["turned_away"] == {"HTTP 413: too large": 1}


def test_the_page_shows_the_counts_without_scripts(predictor) -> None:
    summary = RunningSummary(predictor)
    summary.add("HTTP", [scored(0.5, warning="<script>")])
    page = summary.page()
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("name", ["expected.csv", "expected.jsonl", "expected.parquet"])
def test_scores_are_compared_with_those_of_other_results(predictor, chests, tmp_path: Path, name: str) -> None:
    results = Results(tmp_path / name, predictor)
    results.add((str(number), scored(0.1), {}) for number in range(200))
    results.add([("bad", Prediction(Path("bad"), error="damaged"), {})])
    results.close()
    same, shifted = (RunningSummary(predictor, tmp_path / name) for _ in range(2))
    same.add("HTTP", [scored(0.1)] * 50)
    shifted.add("HTTP", [scored(0.1), scored(0.9)] * 50)
    assert "the scores have shifted" not in same.page()
    assert "the scores have shifted" in shifted.page()


def test_a_table_of_mlcak_predict_can_be_compared_with_and_another_file_not(predictor, chests, tmp_path: Path) -> None:
    write_predictions(predictor.predict(chests), output=tmp_path / "p.csv")
    RunningSummary(predictor, tmp_path / "p.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name in ("other.csv", "missing.csv", "p.txt"):
        with pytest.raises(DeploymentError, match="must be a table of results"):
            RunningSummary(predictor, tmp_path / name)


def test_the_p_value_of_equal_distributions_is_uniform_and_of_others_small() -> None:
    random = np.random.default_rng(0)
    expected = np.array([0, 0, *range(18)])
    chances = expected / expected.sum()
    p = [drift_p_value(random.multinomial(200, chances), random.multinomial(300, chances)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert drift_p_value(random.multinomial(200, chances[::-1]), random.multinomial(300, chances)) < 1e-6
    assert drift_p_value(np.zeros(20, int), expected) is None
