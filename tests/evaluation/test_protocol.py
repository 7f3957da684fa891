"""A protocol of a study: its rows, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from mlcak_hf.errors import RecipeError
from mlcak_hf.evaluation.study.protocol import Protocol

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = {
    "teacher": {"kind": "teacher", "lowres": [28]},
    "plain": {"alpha": 0, "beta": 0, "gamma": 0},
    "mlcak": {"teacher": "teacher"},
    "per level": {"teacher": "teacher", "attention_aggregation": "per_level", "ablation": "aggregation"},
}


def protocol(**changes):
    entries = {"dataset": "nowhere/chests", "baseline": "plain", "rows": ROWS, "folds": 3, "seeds": [0, 1, 2]}
    return Protocol(**(entries | changes))


def test_sizes_make_rows_that_are_compared_with_the_plain_student_of_their_size():
    rows = {**ROWS, "last level": {"teacher": "teacher", "model": "mine", "student_levels": [-1]}}
    made = protocol(rows=rows, sizes={28: "small", 56: "large"}, student={"num_train_epochs": 3})
    found = {row.name: row for row in made.study_rows}
    assert list(found)[:4] == ["teacher", "plain 28 px", "plain 56 px", "mlcak 28 px"]
    assert found["mlcak 56 px"].baseline == "plain 56 px"
    assert found["mlcak 56 px"].options == {"num_train_epochs": 3, "model": "large"}
    assert found["last level"].baseline == "plain 28 px"
    assert found["last level"].teacher == ("teacher",)


@pytest.mark.parametrize("file", sorted((EXAMPLES / "evaluation").glob("study*.yaml")), ids=lambda file: file.stem)
def test_the_protocols_of_the_guide_can_be_used(file):
    rows = {row.name.split(" ")[0]: row for row in Protocol.load(file).study_rows}
    assert rows["plain"].options["gamma"] == 0
    assert rows["MLCAK"].teacher == ("teacher",)
    assert rows["teacher"].options["num_train_epochs"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ROWS | {"typo": {"learning_rat": 1}}}, "'learning_rat' in row 'typo'.*'learning_rate'"),
        ({"data": {"label_colum": "x"}}, "'label_colum' in data"),
        ({"folds": 1}, "got 1"),
        ({"baseline": "nothing"}, "baseline 'nothing'"),
        ({"rows": {"mlcak": ROWS["mlcak"], **ROWS}}, "The teachers of 'mlcak' must be rows before it"),
        ({"rows": ROWS | {"x": {"kind": "aunt"}}}, "got 'aunt'"),
        ({"rows": ROWS | {"per-level": {}}}, "Rows must differ"),
        ({"rows": ROWS | {"gamma=1": {}}}, "no '='"),
        ({"rows": ROWS | {"x": {"folds": [3]}}}, r"folds among \[0, 1, 2\]; got \[3\]"),
        ({"rows": ROWS | {"x": {"tuning": [{"gamma": 1}, {"gamma": 9}]}}}, "same number of trials; got .*x 2"),
    ],
)
def test_a_protocol_that_cannot_be_used_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        protocol(**changes)


YAML_TYPES = """
folds: two
folds: 2.5
folds: null
seeds: 3
seeds: "012"
seeds: [0.5]
seeds: [-1]
seeds: [a]
seeds: [true]
rows: null
rows: [plain]
rows: {}
rows: {plain: {}, x: null}
rows: {plain: {}, x: text}
rows: {plain: {}, 5: {}}
rows: {plain: {}, x: {seeds: 1}}
rows: {plain: {}, x: {folds: 1}}
rows: {plain: {}, x: {lowres: 14}}
rows: {plain: {}, x: {teacher: 5}}
rows: {plain: {}, x: {teacher: null}}
rows: {plain: {}, x: {tuning: [lr]}}
rows: {plain: {}, x: {baseline: [plain]}}
data: null
student: null
student: {config: 5}
dataset: null
dataset: [a]
baseline: [plain]
sizes: [28]
sizes: {28: null}
tuning: {learning_rate: 1}
rehearsal: 5
"""


@pytest.mark.parametrize("entry", YAML_TYPES.strip().splitlines())
def test_an_entry_of_another_type_is_refused_in_one_sentence(tmp_path, entry):
    entries = {"dataset": "nowhere/chests", "baseline": "plain", "rows": {"plain": {}}} | yaml.safe_load(entry)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(RecipeError, match=r"^[^.]* must be [^\n]*; got [^\n]*\.$"):
        Protocol.load(tmp_path / "study.yaml")


def test_the_refusal_of_a_type_says_where_what_is_expected_and_what_was_found():
    with pytest.raises(RecipeError) as refused:
        protocol(rows=ROWS | {"x": {"seeds": 1}})
    assert str(refused.value) == "seeds of row 'x' must be a list of whole numbers, 0 or larger; got 1."


def test_a_protocol_in_json_has_its_sizes_as_text(tmp_path):
    entries = {"dataset": "nowhere/chests", "baseline": "plain", "rows": {"plain": {}}, "sizes": {28: "small"}}
    (tmp_path / "study.json").write_text(json.dumps(entries))
    assert [row.name for row in Protocol.load(tmp_path / "study.json").study_rows] == ["plain 28 px"]
