# make help    lists the targets
# make demo    trains a network on synthetic faces (about four minutes on two cores)
# make test    runs the tests (seven minutes to a quarter of an hour on two cores)
# make test-all   runs them for every depth of every network
# make lint    checks the code with ruff and mypy (pyproject.toml)
# make format  formats it with ruff
# make test-torch tests the networks as PyTorch modules, and in arcface_torch (installs PyTorch, 4.5 GB; five minutes)
# make test-torch-newest tests them with the newest PyTorch, timm and torchao (installs 5.8 GB; Python 3.11 to 3.13)
# make test-openvino tests the package insightface with OpenVINO as its provider (installs it, 0.9 GB; half a minute)
# make test-engines compares onnxsim, OpenCV, ncnn, MNN, TFLite, onnxruntime-web and more (3.3 GB; a quarter of an hour)
# make bench   times cru116 and att92 and plans the memory of all networks (about a quarter of an hour on two cores)
# make pictures   draws the pictures of README.md and docs/ (about four minutes on two cores)
# make host-env    makes .venv-host, in which insightface's own MXNet trainers run on a CPU (half a minute)
# make test-host INSIGHTFACE=/path/to/checkout   trains in a copy of that checkout, with its own train.py (three minutes)
# make check-gpu   measures PyTorch, onnxruntime and MXNet on this machine's GPUs into out/gpu (quarter of an hour; 11 GB)
# make check-gpu ARGS=--quick   less of it in three minutes; python tools/measure.py gpu --help has all options
# make check-gpu-install   installs MXNet for CUDA in a scratch environment and tries it (2.5 GB)
# make mutants breaks the code in the ways of benchmarks/mutants.toml; the tests must notice (a quarter of an hour)
# make fuzz    reads files that are damaged in random ways (ten minutes; ARGS='--minutes 60')
# make clean   removes the environments and out/

# $(call newest_of,VERSIONS): the first of these Pythons that can make environments.
newest_of = $(shell for v in $(1); do \
	command -v python$$v >/dev/null 2>&1 && python$$v -c 'import venv, ensurepip' >/dev/null 2>&1 && \
	{ echo python$$v; break; }; done)
# $(call needs,VARIABLE,REASON): end with a sentence if the variable names no Python.
needs = @test -n "$($(1))" || { echo "$(2) with its venv module: install one (Debian: apt-get install python3 python3-venv) or pass it: make $(MAKECMDGOALS) $(1)=/path/to/python" >&2; exit 2; }
PYTHON ?= $(call newest_of,3.11 3.10 3.9 3.8)
# insightface's trainers need numpy 1.22 and scipy 1.7.3, which Python 3.11 does not have.
HOST_PYTHON ?= $(call newest_of,3.10 3.9 3.8)
# The versions of the extra gpu exist for these.
GPU_PYTHON ?= $(call newest_of,3.12 3.11 3.10)
# MXNet for CUDA cannot even be imported without the driver's library.
HAS_DRIVER = { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q libcuda.so.1
RUN = .venv/bin/python
NEEDS_PYTHON = $(call needs,PYTHON,MXNet 1.9.1 needs Python 3.8 to 3.11)
NEWEST_PYTHON ?= $(call newest_of,3.13 3.12 3.11)
# $(call install,ENVIRONMENT,EXTRAS of pyproject.toml): PyTorch only where an extra asks for it.
install = $(1)/bin/python tools/extras.py $(2) > $(1)/wanted.txt && \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(1)/wanted.txt

.PHONY: help demo lint format test test-torch test-torch-newest test-openvino test-engines test-all bench pictures mutants fuzz host-env test-host check-gpu check-gpu-install clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: .venv/installed
	$(RUN) tools/demo.py

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: .venv/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# One single-threaded process per CPU takes half the time of one process with all threads.
test: .venv/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal

# PyTorch comes with CUDA's libraries, 4.5 GB, so it has a separate environment.
test-torch: .venv-torch/installed
	OMP_NUM_THREADS=1 .venv-torch/bin/python -m pytest -n auto --dist worksteal tests/backbones tests/measure/test_torch_engine.py

.venv-torch/installed: pyproject.toml constraints.txt
	$(NEEDS_PYTHON)
	"$(PYTHON)" -m venv .venv-torch
	$(call install,.venv-torch,mxnet tools test arcface-torch)
	@touch $@

# Tests without MXNet, which ends at Python 3.11; and the package as pip installs it from a git URL.
NEWEST_TESTS = tests/classification tests/backbones/test_layers.py tests/backbones/test_package.py tests/backbones/test_newest.py
test-torch-newest: .venv-newest/installed
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n auto --dist worksteal $(NEWEST_TESTS)
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "git+file://$(CURDIR)"
	cd / && "$(CURDIR)/.venv-newest/bin/python" -c "import crunet; print(crunet.create_model('ires18').size)"
	.venv-newest/bin/python -m pip uninstall --quiet --yes crunet

.venv-newest/installed: pyproject.toml constraints.txt
	$(call needs,NEWEST_PYTHON,this target needs Python 3.11 to 3.13)
	"$(NEWEST_PYTHON)" -m venv .venv-newest
	$(call install,.venv-newest,newest test)
	@touch $@

# In an environment for this test alone, since the packages of onnxruntime exclude each other.
test-openvino: .venv/installed
	@made=$$(mktemp -d) && trap "rm -rf $$made" EXIT && $(RUN) -m venv $$made && \
	$(call install,$$made,openvino) && \
	$$made/bin/python -m pip install --quiet --disable-pip-version-check --no-deps insightface==2.1 && \
	OPENVINO_PYTHON=$$made/bin/python $(RUN) -m pytest tests/deploy/test_openvino.py -k provider

# Engines that take our ONNX file; onnxruntime-web runs in node.
test-engines: .venv/installed .venv-engines/installed
	$(RUN) benchmarks/engines.py --python .venv-engines/bin/python $(ARGS)

.venv-engines/installed: pyproject.toml constraints.txt
	@command -v npm >/dev/null 2>&1 || { echo "this target needs node and npm (Debian: apt-get install nodejs npm)" >&2; exit 2; }
	$(NEEDS_PYTHON)
	"$(PYTHON)" -m venv .venv-engines
	$(call install,.venv-engines,engines)
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pnnx==20261020 insightface==2.1
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv-engines/opencv5 opencv-python-headless==5.0.0.93
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix .venv-engines/node onnxruntime-web@1.30.0
	@touch $@

test-all: .venv/installed
	ALL_DEPTHS=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal

bench: .venv/installed
	$(RUN) tools/measure.py networks cru116:plain cru116 --plot out/bench/cru116.png
	$(RUN) tools/measure.py networks att92:plain att92 --plot out/bench/att92.png
	$(RUN) tools/measure.py networks cru116 cru116:insightface,memonger=False cru116:insightface,memonger=False,net_prelu=op
	$(RUN) tools/measure.py networks cru116_imagenet att92_imagenet --peer gluoncv2
	$(RUN) tools/measure.py networks cru116:plain cru116:plain,memonger=True --only training
	$(RUN) tools/measure.py networks cru116 cru116:memonger=True --only training
	$(RUN) tools/measure.py deployment --plot out/bench/deployment.png
	$(RUN) tools/measure.py networks --reading cru116 cru56:net_multiplier=0.25
	$(RUN) tools/measure.py networks --memory
	$(RUN) tools/measure.py networks --building

pictures: .venv/installed
	$(RUN) tools/visualize.py network cru116 -o docs/cru116.svg
	$(RUN) tools/visualize.py network cru116 --detail stage2_unit1 -o docs/cru116-unit.svg
	$(RUN) tools/train.py --network att56 --multiplier 0.25 --steps 150 --output out/att56
	$(RUN) tools/visualize.py attention --model out/att56/att56,1 -o docs/att56-masks.png

fuzz: .venv/installed
	$(RUN) benchmarks/fuzz.py --minutes 10 $(ARGS)

mutants: .venv/installed
	$(RUN) benchmarks/mutants.py

.venv/installed: pyproject.toml constraints.txt
	$(NEEDS_PYTHON)
	"$(PYTHON)" -m venv .venv
	$(call install,.venv,mxnet tools test dev)
	@touch $@

host-env: .venv-host/installed

test-host: .venv-host/installed
	@test -d "$(INSIGHTFACE)/recognition" || { echo "name a checkout: make test-host INSIGHTFACE=/path/to/insightface" >&2; exit 2; }
	INSIGHTFACE="$(abspath $(INSIGHTFACE))" .venv-host/bin/python -m pytest tests/patcher/test_in_host.py -k INSIGHTFACE

.venv-host/installed: pyproject.toml constraints.txt
	$(call needs,HOST_PYTHON,insightface's trainers need Python 3.8 to 3.10)
	"$(HOST_PYTHON)" -m venv .venv-host
	$(call install,.venv-host,host test)
	@touch $@

# The report lists failures of MXNet for CUDA; PyTorch continues without it.
check-gpu: .venv-gpu/installed
	@$(MAKE) --no-print-directory .venv-gpu-mxnet/installed || echo "MXNet cannot be installed here: continuing without it" >&2
	.venv-gpu/bin/python tools/measure.py gpu $$(test -e .venv-gpu-mxnet/installed && echo --mxnet-python .venv-gpu-mxnet/bin/python) $(ARGS)

.venv-gpu/installed: pyproject.toml constraints.txt
	$(call needs,GPU_PYTHON,this target needs Python 3.10 to 3.12)
	"$(GPU_PYTHON)" -m venv .venv-gpu
	$(call install,.venv-gpu,gpu)
	@touch $@

.venv-gpu-mxnet/installed: pyproject.toml constraints.txt
	$(NEEDS_PYTHON)
	"$(PYTHON)" -m venv .venv-gpu-mxnet
	$(call install,.venv-gpu-mxnet,$$($(HAS_DRIVER) && echo mxnet-gpu || echo mxnet) tools)
	@touch $@

# Not part of the tests: it fetches about 2.5 GB.
check-gpu-install: .venv/installed
	$(RUN) tools/measure.py install

clean:
	rm -rf .venv .venv-engines .venv-gpu .venv-gpu-mxnet .venv-host .venv-newest .venv-torch out
