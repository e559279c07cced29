# Everything from a fresh clone: `make test`, `make lint` and `make demo` set up .venv by themselves.

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
TREE := build/tree/sige_deploy

.PHONY: test lint demo native tree clean

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

lint: .venv/ready tree
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd build/tree && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy_cache

demo: .venv/ready
	$(BIN)/sige-deploy demo --out build/demo

# The native kernels for ONNX Runtime, which sessions then find by themselves: docs/native.md.
native:
	plugins/onnxruntime/fetch_headers build/native
	cmake -S plugins -B build/native
	cmake --build build/native

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH) --editable '.[dev,diffusers]'
	touch $@

# The package as it is installed, for the type checker: exporters/ and runtimes/ at their import names.
tree:
	rm -rf $(TREE)
	mkdir -p $(TREE)
	ln -s $(addprefix $(CURDIR)/,$(wildcard sige_deploy/*) exporters runtimes) $(TREE)/

clean:
	rm -rf .venv build
