"""The figure of false claims: what its simulation finds, by a smaller number of tables than in the guide."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "evaluation" / "false_claims.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("false_claims", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rates(script):
    return script.simulate(tables=100, images=2000)


def test_the_former_rule_claims_falsely_and_the_rule_in_use_does_not(rates):
    assert rates["old"][1][0] > 0.4
    assert rates["old"][3][0] > 0.1
    assert rates["old"][3][1] > 0.5, "at least one false claim in a table of eight rows"
    for runs in (3, 5):
        assert 0 < rates["new"][runs][0] <= 0.055
        assert rates["new"][runs][1] <= 0.055
    assert rates["new"][1] == (0.0, 0.0), "there is no verdict from one run"


def test_models_of_folds_with_other_scales_change_nothing(script):
    rates = script.simulate(tables=40, images=1000, folds=5)
    for runs in (3, 5):
        assert 0 < rates["new"][runs][0] <= 0.055
        assert rates["new"][runs][1] <= 0.055


def test_the_figure_is_drawn(script, rates, tmp_path):
    script.draw(rates, "title", str(tmp_path / "rates.png"))
    with Image.open(tmp_path / "rates.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
