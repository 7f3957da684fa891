# `make demo` and `make test` need only Python (>= 3.10), make and git; the first call makes the environment.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
JOBS ?= 2
BIN := $(VENV)/bin
ONNX_TESTS := tests/deployment/test_export_onnx.py tests/prediction/test_onnx_predictor.py tests/prediction/test_without_torch.py
NODE_MODULES := tests/browser/node_modules/.package-lock.json
EXTRAS_onnx := onnx
EXTRAS_serving := serve,dicom-out,onnx
EXTRAS_ray := ray

.DEFAULT_GOAL := help

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Borrows the packages of the environment above; only what the extras add is installed.
.venv-%/.installed: $(VENV)/.installed
	$(BIN)/python -m venv --clear .venv-$*
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(.venv-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/borrowed.pth"
	.venv-$*/bin/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS_$*)]"
	@touch $@

.PHONY: install debian demo test core test-onnx test-serving test-browser test-ray test-space test-javascript check format clean help

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

test-onnx: export OMP_NUM_THREADS = 1
test-onnx: .venv-onnx/.installed  ## run the tests of ONNX files
	MLCAK_TEST_ONNX=1 .venv-onnx/bin/python -m pytest $(ONNX_TESTS)

# Foreign DICOM programs and a browser. One call for all stages: two at a time would lock each other out. Only what is
# missing: Node.js from elsewhere brings its npm, and Debian's npm conflicts with it.
debian:
	@missing=""; \
	for program in storescu:dcmtk dciodvfy:dicom3tools Orthanc:orthanc node:nodejs npm:npm chromium:chromium; do \
		command -v "$${program%:*}" > /dev/null || missing="$$missing $${program#*:}"; \
	done; \
	test -z "$$missing" || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; } > /dev/null || \
		echo "These Debian packages cannot be installed; tests that need them are skipped or fail:$$missing"

# Playwright, for two stages that may run at the same time.
$(NODE_MODULES): tests/browser/package-lock.json | debian
	npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --prefer-offline
	@touch $@

test-serving: export OMP_NUM_THREADS = 1
test-serving: .venv-serving/.installed debian  ## run the tests of watch, serve, DICOM reports and the endpoint, with foreign DICOM programs
	.venv-serving/bin/python -m pytest tests/serving

# The page in Chromium; the packages that it is built from and the radiographs go to .browser/.
test-browser: export OMP_NUM_THREADS = 1
test-browser: .venv-onnx/.installed $(NODE_MODULES)  ## run the tests of the page for the browser, with Node.js and Chromium
	.venv-onnx/bin/python tests/browser/prepare.py .browser/work
	tests/browser/node_modules/.bin/tsc -p tests/browser/tsconfig.json
	MLCAK_BROWSER_WORK="$(abspath .browser/work)" node --test tests/browser/units.test.js tests/browser/page.test.js

test-ray: export OMP_NUM_THREADS = 1
test-ray: .venv-ray/.installed  ## run the test of predictions on Ray Data, with two workers
	.venv-ray/bin/python -m pytest tests/examples/test_predict_on_ray.py

# The app runs in an environment of its own, because Gradio refuses Pillow 13.
test-space: export OMP_NUM_THREADS = 1
test-space: .venv-onnx/.installed $(NODE_MODULES)  ## run the tests of the Gradio app and of pushing a model in all its forms, with Node.js and Chromium
	$(BIN)/python -m venv --clear .venv-space
	.venv-space/bin/python -m pip install --quiet -r hub_configs/space/requirements.txt \
		"gradio==$$(sed -n 's/^sdk_version: //p' hub_configs/space/README.md)"
	MLCAK_SPACE_WORK="$(abspath .space)" .venv-onnx/bin/python -m pytest --show-capture=no tests/hub/test_push_forms.py
	MLCAK_SPACE_WORK="$(abspath .space)" MLCAK_SPACE_PYTHON="$(abspath .venv-space/bin/python)" \
		node --test tests/browser/space.test.js

test-javascript: export OMP_NUM_THREADS = 1
test-javascript: .venv-onnx/.installed debian  ## run the test of a stock ViT in Node.js by transformers.js
	npm ci --prefix tests/javascript --ignore-scripts --no-audit --no-fund --prefer-offline
	.venv-onnx/bin/python -m pytest -s tests/deployment/test_transformers_js.py

check: install  ## run ruff and mypy, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## reformat the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the output of the demo and the tools; keep the environment
	rm -rf $(DEMO) .browser .space build dist .mypy_cache .pytest_cache .ruff_cache

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16
