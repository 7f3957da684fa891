"""A benchmark whose bar is missed ends with exit status 1, so that nobody has to read its table to know."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def kills(equal: bool) -> dict:
    kill = {"after_s": 1.0, "finished_shards": 2, "published": False}
    return {"images": 9, "shards": 3, "workers": 2, "kills": [kill], "datasets_finished": 1, "all_bytes_equal": equal}


def memory(*peaks: tuple[int, float]) -> dict:
    keys = ("peak_pss_mb", "peak_pss_without_files_mb", "largest_worker_rss_mb")
    return {"workers": 2, "results": [{"images": images, **dict.fromkeys(keys, peak)} for images, peak in peaks]}


def speed(ratio: float) -> dict:
    return {"images": 9, "images_per_s": {1: 10.0, 2: 10.0 * ratio}, "ratio": ratio}


@pytest.mark.parametrize(
    ("results", "missed"),
    [
        ({"kills": kills(True), "memory": memory((200, 109.0), (20, 100.0)), "speed": speed(1.7)}, []),
        ({"kills": kills(False)}, ["kills"]),
        ({"memory": memory((20, 100.0), (200, 111.0)), "speed": speed(1.9)}, ["memory"]),
        ({"speed": speed(1.69)}, ["speed"]),
    ],
)
def test_prepare_at_scale(tmp_path, monkeypatch, capsys, results, missed) -> None:
    import prepare_at_scale

    for name, result in results.items():
        monkeypatch.setattr(prepare_at_scale, f"measure_{name}", lambda options, result=result: result)
    monkeypatch.setattr(sys, "argv", ["prepare_at_scale.py", "--work-dir", str(tmp_path), "--parts", *results])
    assert prepare_at_scale.main() == int(bool(missed))
    assert (f"missed: {', '.join(missed)}" if missed else "every bar is met") in capsys.readouterr().out


@pytest.mark.parametrize("meets", [True, False])
def test_phantom_resolution(tmp_path, monkeypatch, capsys, meets) -> None:
    import phantom_resolution as benchmark

    rng = np.random.default_rng(0)
    labels = np.tile([[0.0], [1.0]], (100, len(benchmark.DRAWN_FINDINGS)))
    split = benchmark.Split(np.zeros(200), np.zeros((200, 1)), labels, np.zeros(200))
    small = [name in benchmark.SMALL_FINDINGS for name in benchmark.DRAWN_FINDINGS]

    def scores(root, low, options):
        noise = rng.normal(size=labels.shape)
        return np.where(np.array(small) & low & meets, noise, labels + 0.1 * noise)  # else no resolution is needed

    monkeypatch.setattr(benchmark, "write_phantoms", lambda *arguments, **options: tmp_path.mkdir(exist_ok=True))
    monkeypatch.setattr(benchmark, "read_split", lambda *arguments: split)
    monkeypatch.setattr(benchmark, "net_scores", scores)
    monkeypatch.setattr(benchmark, "shortcut_scores", lambda *arguments: np.tile([0.0, 0.0, 1.0, 1.0], 50))
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(1))
    monkeypatch.setattr(sys, "argv", ["phantom_resolution.py", "--work-dir", str(tmp_path), "--bootstrap", "50"])
    assert benchmark.main() == (0 if meets else 1)
    found = json.loads((tmp_path / "phantom_resolution.json").read_text())["findings"]
    assert all(finding["meets"] for finding in found.values()) == meets
    said = "every bar is met" if meets else f"missed: {', '.join(benchmark.SMALL_FINDINGS)}"
    assert said in " ".join(capsys.readouterr().out.split())
