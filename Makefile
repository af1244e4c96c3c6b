# Everything happens in .venv, which each target makes or completes first. Python compiles what is
# imported when it is; to compile all 20,000 files at once would take as long again as to fetch them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Where this is set, each process compiles TensorFlow anew, which takes half a minute.
unexport PYTHONDONTWRITEBYTECODE
READY := $(VENV)/.ready

.PHONY: quickstart test check bench clean

$(READY): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt \
		--editable '.[tensorflow,jax,torch,weights,quickstart,search,dev]'
	touch $@

quickstart: $(READY)
	$(RUN)/foveate quickstart

test: $(READY)
	$(RUN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(READY)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/python -m pytest --quiet tests/test_architecture.py

bench: $(READY)
	$(RUN)/python -m benchmarks.loader
	$(RUN)/python -m benchmarks.packing
	$(RUN)/python -m benchmarks.formats
	$(RUN)/python -m benchmarks.fit

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
