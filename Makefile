# Two commands do everything: `make run` sets up and opens the page, `make test` sets up and passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check format lint types tests soak examples bench clean

run: $(VENV)/.run-ready
	$(BIN)/python app.py

# What fails beside the others, such as a browser that waited too long for one of two cores, is run once more alone.
test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n 2 --dist worksteal || $(BIN)/python -m pytest --last-failed

check: $(VENV)/.test-ready format lint types tests

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

tests:
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The monkey of tests/test_monkey.py for ten minutes; MONKEY_SEED=… makes it do something else.
soak: $(VENV)/.test-ready
	MONKEY_S=600 $(BIN)/python -m pytest -s tests/test_monkey.py

# What the worked examples look like when they are opened, and how good every frame is; needed when they, or what the compositor
# makes of them, have changed.
examples: $(VENV)/.run-ready
	for project in assets/examples/*.json; do \
		result=$${project%.json}-result; \
		$(BIN)/python -m pipeline render $$project -o $$result.mp4 --report $(VENV)/report.json && \
		$(BIN)/python -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["quality"]))' \
			< $(VENV)/report.json > $$result.quality || exit; \
	done

bench: $(VENV)/.test-ready
	$(BIN)/python -m benchmarks.render_speed
	$(BIN)/python -m benchmarks.render_memory
	$(BIN)/python -m benchmarks.harmonize_quality
	$(BIN)/python -m benchmarks.editor_latency
	$(BIN)/python -m benchmarks.videoanydoor_speed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The matting library compiles itself at its first use, for over a minute; `warm-up` pays that here, once.
$(VENV)/.run-ready: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pipeline warm-up
	@touch $@

$(VENV)/.test-ready: requirements.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pipeline warm-up
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
