# Everything runs from .venv, which the first target to need it makes.
#   make demo    set up, then the main job on the embedded detector: runs/demo/
#   make test    set up, then the tests (under ten minutes on two cores)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make test PYTEST_ARGS="-k letterbox"`
PYTEST_ARGS ?=
# Two processes of one thread each, a file's tests together: they share what they export. In the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint types bench support clean

demo: $(VENV)/demo.stamp
	$(BIN)/edgedet demo

test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow and not gpu" $(PYTEST_ARGS)

test-all: $(VENV)/dev.stamp
	$(PYTEST) -m "not gpu" $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The folders import as edgedet.*, which a type checker can only follow on a tree laid that way.
types: $(VENV)/dev.stamp
	rm -rf build/types && mkdir -p build/types/edgedet
	ln -s $(CURDIR)/edgedet/* $(CURDIR)/export $(CURDIR)/runtimes $(CURDIR)/calibration build/types/edgedet/
	$(BIN)/mypy build/types/edgedet

bench: $(VENV)/dev.stamp
	for script in $(filter-out benchmarks/support.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

# Measures every cell anew and writes edgedet/support.json; README's copy follows by hand (a test says so).
support: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/support.py

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/%.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "edgedet needs Python 3.10 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
# A machine without libGL has no windows to open: OpenCV without them serves it.
	$(BIN)/python -c "import cv2" 2>/dev/null || { \
	  $(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless && \
	  $(BIN)/python -m pip install --quiet -c constraints.txt opencv-python-headless && \
	  $(BIN)/python -c "import cv2"; }
	touch $@
