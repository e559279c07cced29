# Everything from a fresh clone: `make test`, `make lint` and `make demo` set up .venv by themselves.

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
TREE := build/tree/sige_deploy
KERNELS := build/native/libsige_kernels.so
# Not the working folder, where the package lacks exporters/ and runtimes/.
ON_GPU := PYTHONSAFEPATH=1 PYTHONPATH=build/tree:tests

.PHONY: test lint demo check-apple native native-cuda cpp check-cuda test-gpu sanitize-gpu bench-gpu tree clean

test: .venv/ready build/tensorrt/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

lint: .venv/ready tree
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd build/tree && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy_cache

demo: .venv/ready
	$(BIN)/sige-deploy demo --out build/demo

# The native code, which sessions of the checkout then find by themselves: docs/native.md.
native native-cuda:
	plugins/onnxruntime/fetch_headers build/native
	cmake -S plugins -B build/native -DSIGE_CUDA=$(if $(findstring cuda,$@),ON,OFF) \
	    $(if $(CUDA_ARCHITECTURES),'-DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)')
	cmake --build build/native --parallel

# The C++ library, installed to build/cpp/prefix with the package's ONNX Runtime: docs/cpp.md.
cpp: .venv/ready
	plugins/onnxruntime/fetch_headers build/cpp
	runtimes/cpp/fetch_headers build/cpp
	cmake -S runtimes/cpp -B build/cpp -DSIGE_CUDA=OFF -DCMAKE_INSTALL_PREFIX=$(CURDIR)/build/cpp/prefix \
	    -DONNXRUNTIME_ROOT=$$($(BIN)/python -c 'import onnxruntime as o; print(o.__path__[0])')
	cmake --build build/cpp --parallel
	cmake --install build/cpp

# Whether the CUDA sources and the TensorRT plugins compile and link, for one architecture; needs nvcc and no GPU.
check-cuda:
	@if command -v nvcc >/dev/null; then set -x; \
	    cmake -S plugins -B build/check_cuda -DSIGE_CUDA=ON -DSIGE_ONNXRUNTIME=OFF -DSIGE_INSTRUCTION_SETS=none \
	        -DCMAKE_CUDA_ARCHITECTURES=90a-real && \
	    cmake --build build/check_cuda --parallel 2 && \
	    $(PYTHON) -c 'import ctypes; ctypes.CDLL("build/check_cuda/libsige_tensorrt.so")'; \
	else echo 'check-cuda: skipped, there is no nvcc on this machine'; fi

# Core ML models, Metal kernels and the Swift package on Linux; Swift is left out where its toolchain cannot be fetched.
check-apple: .venv/ready
	$(BIN)/pip install --quiet 'coremltools>=9'
	runtimes/swift/fetch_toolchain build/swift
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup tests/plugins/metal tests/runtimes/test_swift*.py \
	    tests/exporters/test_coreml*.py
	PYTHONPATH=tests $(BIN)/python -m plugins.metal.build --sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	    SIGE_METAL_LIBRARY=build/metal_sanitize/libsige_metal.so $(BIN)/pytest tests/plugins/metal/test_ops.py

# On a machine with a GPU, in the environment of $(PYTHON), which has torch with CUDA and onnxruntime-gpu.
test-gpu sanitize-gpu bench-gpu: CUDA_ARCHITECTURES ?= native

test-gpu: native-cuda tree
	$(ON_GPU) $(PYTHON) -m plugins.cuda_check --library $(KERNELS)
	$(ON_GPU) $(PYTHON) -m plugins.cuda_indices_check --library $(KERNELS)
	$(ON_GPU) $(PYTHON) -m pytest tests/gpu $(PYTEST_ARGS)

sanitize-gpu: native-cuda tree
	for tool in memcheck racecheck; do for check in 'cuda_check --small' cuda_indices_check; do \
	    echo "$$tool: $$check"; \
	    $(ON_GPU) compute-sanitizer --tool $$tool --kernel-name kns=sige --error-exitcode 1 --print-limit 5 \
	        $(PYTHON) -m plugins.$$check --library $(KERNELS) --cases 6 || exit 1; \
	done; done

bench-gpu: native-cuda tree
	PYTHONPATH=build/tree $(PYTHON) benchmarks/gpu/network.py --out build/bench_gpu $(BENCH_ARGS)

# Without native code: tests build what they need.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH) --editable '.[dev,diffusers]' --config-settings wheel.cmake=false
	touch $@

# What tests load the TensorRT plugins into, each version in a folder: TensorRT for RTX, which builds engines, and two
# runtimes. Where they cannot be had, these tests skip.
build/tensorrt/ready: .venv/ready
	rm -rf $(@D)
	mkdir -p $(@D)
	for package in rtx:1.7.1.116 lean:10.16.1.11 lean:11.4.0.106; do \
	    name=$${package%:*} version=$${package#*:}; \
	    $(BIN)/pip install --quiet --no-deps --only-binary :all: --target $(@D)/$$name-$$version \
	        tensorrt-$$name-cu13-libs==$$version tensorrt-$$name-cu13-bindings==$$version || failed=1; \
	done; test -z "$$failed" && touch $@ || echo 'tests of the TensorRT plugins skip what they have no packages for'

# The package as it is installed: exporters/, runtimes/ and the demos' networks at their import names.
tree:
	rm -rf $(TREE)
	mkdir -p $(TREE)
	ln -s $(addprefix $(CURDIR)/,$(wildcard sige_deploy/*) exporters runtimes examples/street examples/scenes) $(TREE)/

clean:
	rm -rf .venv build
