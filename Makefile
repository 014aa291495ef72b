# Everything a person or CI runs. Each target sets up what it needs, once.
.PHONY: setup demo test soak lint bench lock clean

PY := .venv/bin/python
DIR ?=
export DIR  # so that the shell, not make, puts it into the command: it may hold spaces and quotes

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

demo: setup  ## watch it work; DIR=/path/to/models takes your own directory
	@$(PY) -m hubsync demo $${DIR:+"$$DIR"}

test: setup  ## all tests, under ten minutes on two cores
	@$(PY) -m pytest -n 2 --dist worksteal -q tests

soak: setup  ## many random histories of saves, faults and foreign commits; HUBSYNC_SEEDS says how many
	@HUBSYNC_SEEDS=$${HUBSYNC_SEEDS:-100} $(PY) -m pytest -n 2 -q tests/mirror/test_any_order.py

lint: setup  ## style, types, and which module may import what
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup  ## hubsync beside what people use today, on the same data in the same run
	@$(PY) tests/bench/bench.py

lock:  ## pin the newest versions that pyproject.toml allows
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --all-extras --group dev pyproject.toml --output-file requirements.lock --upgrade

clean:
	rm -rf .venv .demo .bench dist
