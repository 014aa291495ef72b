# Everything a person or CI runs. Each target sets up what it needs, once.
.PHONY: setup demo test test-writers soak lint bench bench-restore lock clean

PY := .venv/bin/python
DIR ?=
export DIR  # so that the shell, not make, puts it into the command: it may hold spaces and quotes

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

demo: setup  ## watch it work; DIR=/path/to/models takes your own directory
	@$(PY) -m hubsync demo $${DIR:+"$$DIR"}

test: setup  ## all tests but the slow ones, a quarter of an hour on two cores
	@$(PY) -m pytest -n 4 --dist worksteal -q -m "not slow" tests

test-writers: setup .venv-writers/.ready  ## real torch, transformers, Lightning ... train and save; every commit is loaded
	@$(PY) -m pytest -q -n 2 --timeout 600 tests/writers_real/every_commit.py $(ONLY)

.venv-writers/.ready: tests/writers_real/requirements.txt pyproject.toml  # pip, where it takes torch's smaller build for CPUs
	@python3 -m venv .venv-writers
	@.venv-writers/bin/pip install --quiet --requirement tests/writers_real/requirements.txt --editable .
	@for version in 0.3.3 0.4.5 0.5.3 0.7.0; do \
	  .venv-writers/bin/pip install --quiet --no-deps --target .venv-writers/safetensors-$$version safetensors==$$version; done
	@touch $@

soak: setup  ## slow tests, every fault at every route, random histories, kills; HUBSYNC_SEEDS, _KILLS, _STEADY_S say how many
	@$(PY) -m pytest -q -m slow tests
	@HUBSYNC_MATRIX=whole $(PY) -m pytest -n 2 -q tests/mirror/test_fault_matrix.py tests/e2e/test_network_faults.py
	@HUBSYNC_SEEDS=$${HUBSYNC_SEEDS:-100} $(PY) -m pytest -n 2 -q tests/mirror/test_any_order.py tests/proof/test_any_state.py
	@HUBSYNC_SEEDS=$${HUBSYNC_SEEDS:-100} $(PY) -m pytest -n 2 -q --timeout 3600 tests/test_any_bytes.py
	@HUBSYNC_SEEDS=$${HUBSYNC_SEEDS:-5} HUBSYNC_KILLS=$${HUBSYNC_KILLS:-200} $(PY) -m pytest -n 2 -q -rP tests/crash
	@HUBSYNC_STEADY_S=$${HUBSYNC_STEADY_S:-3600} $(PY) -m pytest -q -rP tests/crash/steady.py

lint: setup  ## style, types, and which module may import what
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup  ## hubsync beside what people use today, on the same data in the same run; BENCH=--quick takes three minutes
	@$(PY) tests/bench/bench.py $(BENCH)

bench-restore: setup  ## hubsync restore beside snapshot_download and git lfs clone, on the same Hub in the same run; BENCH=--quick
	@$(PY) tests/bench/restore.py $(BENCH)

lock:  ## pin the newest versions that pyproject.toml allows
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --all-extras --group dev pyproject.toml --output-file requirements.lock --upgrade

clean:
	rm -rf .venv .venv-writers .demo .bench dist
