# `make demo` and `make test` need only Python (>= 3.10), make and git; the first call makes the environment.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
JOBS ?= 2
BIN := $(VENV)/bin
ONNX_TESTS := tests/deployment/test_export_onnx.py tests/prediction/test_onnx_predictor.py tests/prediction/test_without_torch.py

.DEFAULT_GOAL := help

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: install debian demo test core test-onnx test-serving test-browser test-ray check format clean help

install: $(VENV)/.installed  ## create .venv and install the package with its development tools

demo: install  ## phantoms -> dataset -> teacher -> students -> comparison table, figure and models, in demo/
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo/demo.sh $(DEMO)

# One thread per process: the two test processes already use both cores.
test: export OMP_NUM_THREADS = 1
test: install  ## run all tests, on two processes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 30

core: export OMP_NUM_THREADS = 1
core: install  ## run the tests that are not marked slow
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

# Borrows the packages of the environment above; only what the extra adds is installed.
test-onnx: export OMP_NUM_THREADS = 1
test-onnx: install  ## run the tests of ONNX files, in an environment of their own
	$(BIN)/python -m venv --clear .venv-onnx
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-onnx/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	.venv-onnx/bin/python -m pip install --quiet -c constraints.txt -e ".[onnx]"
	MLCAK_TEST_ONNX=1 .venv-onnx/bin/python -m pytest $(ONNX_TESTS)

# Foreign DICOM programs and a browser. One call for all stages: two at a time would lock each other out.
debian:
	@which storescu dciodvfy Orthanc npm chromium > /dev/null || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			dcmtk dicom3tools orthanc nodejs npm chromium; } > /dev/null || \
		echo "dcmtk, dicom3tools, orthanc, nodejs, npm and chromium cannot be installed; tests that need them are skipped or fail."

test-serving: export OMP_NUM_THREADS = 1
test-serving: install debian  ## run the tests of watch, serve, DICOM reports and the endpoint, in an environment of their own, with foreign DICOM programs
	$(BIN)/python -m venv --clear .venv-serving
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-serving/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	.venv-serving/bin/python -m pip install --quiet -c constraints.txt -e ".[serve,dicom-out,onnx]"
	.venv-serving/bin/python -m pytest tests/serving

# The page in Chromium; the packages that it is built from and the radiographs go to .browser/.
test-browser: export OMP_NUM_THREADS = 1
test-browser: install debian  ## run the tests of the page for the browser, with Node.js and Chromium
	$(BIN)/python -m venv --clear .venv-browser
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-browser/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	.venv-browser/bin/python -m pip install --quiet -c constraints.txt -e ".[onnx]"
	npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --prefer-offline
	.venv-browser/bin/python tests/browser/prepare.py .browser/work
	tests/browser/node_modules/.bin/tsc -p tests/browser/tsconfig.json
	MLCAK_BROWSER_WORK="$(abspath .browser/work)" node --test tests/browser/units.test.js tests/browser/page.test.js

test-ray: export OMP_NUM_THREADS = 1
test-ray: install  ## run the test of predictions on Ray Data, with two workers, in an environment of its own
	$(BIN)/python -m venv --clear .venv-ray
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-ray/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	.venv-ray/bin/python -m pip install --quiet -c constraints.txt -e ".[ray]"
	.venv-ray/bin/python -m pytest tests/examples/test_predict_on_ray.py

check: install  ## run ruff and mypy, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## reformat the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the output of the demo and the tools; keep the environment
	rm -rf $(DEMO) .browser build dist .mypy_cache .pytest_cache .ruff_cache

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
