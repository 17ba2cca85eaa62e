# Interpreter of a new environment, and the environment: see `make help`.
PYTHON ?= python3
VENV ?= .venv
# What `make quickstart` trains.
MODEL = pair_detr
# 1 also predicts masks.
MASKS =
# Processes that share the tests.
JOBS ?= 2

RUN = $(VENV)/bin/python
STAMP = $(VENV)/.pair_detr-installed

define HELP
make install      build the environment $(VENV)
make quickstart   train on generated shapes and show the AP
                  (MODEL=pair_detr|conditional_detr|detr; MASKS=1 for masks as well as boxes)
make test         run all tests  (JOBS=2 processes; PAIR_DETR_SKIP_SLOW=1 leaves out the slow ones)
make lint         check style and layout with ruff
make format       repair what ruff can repair
make clean        remove build products and caches; the environment and output/ stay

Every target installs what is missing first. Variables of all of them:
  VENV=DIR      the environment, .venv unless given
  PYTHON=FILE   the interpreter that a new environment is made from, Python >= 3.10

Your own Detectron2 is used as it is:
  make install PYTHON=/path/to/python   a new $(VENV) on top of that interpreter's packages, which stay untouched
  make install VENV=/path/to/env        that environment itself; only packages that it lacks are added
Otherwise PyTorch (5 GB with CUDA), Detectron2 and the rest come as pinned in requirements/.
endef

.PHONY: help install quickstart test lint format clean

help:
	@: $(info $(HELP))

install: $(STAMP)

$(STAMP): setup.py pyproject.toml $(wildcard requirements/*.txt) scripts/install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo 'make install: "$(PYTHON)" is not Python 3.10 or later; name one: make install PYTHON=/path/to/python' >&2; \
	    exit 1; }
	$(PYTHON) scripts/install.py --venv $(VENV)
	@touch $@

quickstart: $(STAMP)
	$(RUN) -m pair_detr.tools.quickstart --model $(MODEL) $(if $(filter 1,$(MASKS)),--masks)

# One thread a process: the processes share the cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses $(JOBS) --dist worksteal

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find pair_detr tests scripts -name __pycache__ -prune -exec rm -rf {} +
