"""Worker processes give the same results, explain a death in one sentence, and none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing import get_all_start_methods
from pathlib import Path

import pytest
from worker_jobs import die, double

from mlcak_hf.errors import DatasetError
from mlcak_hf.phantoms.writer import write_phantoms
from mlcak_hf.vindr_cxr.inspection.inspect import inspect_vindr_cxr
from mlcak_hf.worker_processes import map_in_processes

pytestmark = pytest.mark.slow

PARENT = """
import sys
from worker_jobs import sleeping
from mlcak_hf.worker_processes import map_in_processes
if __name__ == "__main__":
    for pid in map_in_processes(sleeping, [0, 0, 60, 60], 2, doing="sleeping", preload="mlcak_hf.errors"):
        print(pid, flush=True)
"""


def test_results_come_in_the_order_of_the_jobs_and_errors_as_they_are() -> None:
    options = {"doing": "doubling", "preload": "mlcak_hf.errors"}
    assert list(map_in_processes(double, range(50), 2, **options)) == list(range(0, 100, 2))
    with pytest.raises(DatasetError, match="-1 is less than 0"):
        list(map_in_processes(double, [1, -1, 2], 2, **options))


def test_a_phantom_process_that_dies_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mlcak_hf.phantoms.writer._write_one", die)
    with pytest.raises(DatasetError, match=r"A process died while drawing phantoms \(SIGKILL\).*use fewer workers"):
        write_phantoms(tmp_path / "p", num_train=2, num_test=1, size_px=64, num_proc=2)


def test_an_inspecting_process_that_dies_is_one_sentence(small_vindr, monkeypatch) -> None:
    monkeypatch.setattr("mlcak_hf.vindr_cxr.inspection.inspect.file_facts", die)
    with pytest.raises(DatasetError, match=r"A process died while reading radiographs \(SIGKILL\).*use fewer workers"):
        inspect_vindr_cxr(small_vindr, num_proc=2)


@pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="there is no fork server to die")
@pytest.mark.parametrize("command", ["phantom", "prepare"])
def test_a_fork_server_that_dies_is_one_sentence(small_vindr, tmp_path, command) -> None:
    (tmp_path / "deadly.py").write_text("import os; os._exit(3)")
    module = "phantoms.writer" if command == "phantom" else "preparation.shards.shard_files"
    options = ["--train", 2, "--test", 1, "--size", 64] if command == "phantom" else ["--size", 32]
    source = [] if command == "phantom" else [small_vindr]
    script = tmp_path / "run.py"
    script.write_text(
        f"""
import sys
from mlcak_hf.cli.main import main
from mlcak_hf.{module} import __dict__ as names
if __name__ == "__main__":
    names["__name__"] = "deadly"  # what the fork server imports first
    sys.argv = {["mlcak", command, *map(str, [*source, tmp_path / "out", *options, "--workers", 2])]!r}
    main()
"""
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: No worker process could be started. ")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
def test_processes_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        parent.kill()
    patience = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
