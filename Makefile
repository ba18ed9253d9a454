# Two commands do everything: `make demo` and `make test`. `make soak` tries for longer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test files side by side, each in one process; whole-study files first, see tests/conftest.py.
TEST_PROCESSES ?= 2

PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: demo test faults soak audit check install clean

demo: install
	$(BIN)/regatta demo

test: check
	$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not soak"

# The fault matrix of docs/reliability.md, without its long part.
faults: install
	$(PYTEST) -m "fault and not soak"

# Minutes to hours: random kills until a study is done, and millions of inputs to every parser.
soak: install
	$(PYTEST) -m soak

# The pinned packages against the public list of known faults; needs a network.
audit: install
	test -x $(VENV)/audit/bin/pip-audit || ($(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit)
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .ruff_cache
