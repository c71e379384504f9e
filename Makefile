# make train | make video | make rooms | make compress | make test | make lint | make test-slow | make fuzz; everything is installed into .venv on first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Where pip finds a CPU build of torch. Empty it (TORCH_INDEX=) for the registry's default, the CUDA build.
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || command -v rocm-smi >/dev/null 2>&1 || \
	! curl -sfIo /dev/null --max-time 5 https://download.pytorch.org/whl/cpu/torch/ || \
	echo --extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: train video rooms compress test test-slow fuzz lint format clean

train: $(VENV)/.train
	$(BIN)/dropfold train furniture $(ARGS)

# Data (minutes, once), training and report of the fully decomposed LSTM.
video: $(VENV)/.train data/local/moving_furniture.h5
	$(BIN)/dropfold train fdht-lstm-video $(ARGS)

# Furnished rooms (made once), a PointNet++ that labels their points, a room of the test area labelled, report.
# A run that was interrupted goes on: make rooms ROOMS_RUN=runs/rooms-pointnet2-DATE
ROOM ?= data/local/rooms_raw/Area_5/office_1/office_1.txt
ifndef ROOMS_RUN
ROOMS_RUN := runs/rooms-pointnet2-$(shell date +%Y%m%d-%H%M%S)
endif
rooms: $(VENV)/.train data/local/rooms.h5
	$(BIN)/dropfold train rooms-pointnet2 $(if $(wildcard $(ROOMS_RUN)/config.json),--resume,--out) $(ROOMS_RUN) $(ARGS)
	$(BIN)/dropfold predict $(ROOMS_RUN) $(ROOM) --out $(ROOMS_RUN)/labelled.ply

# The rooms that are there already are kept.
data/local/rooms.h5: | $(VENV)/.train
	$(BIN)/dropfold data rooms --out data/local/rooms_raw
	$(BIN)/dropfold data s3dis --source data/local/rooms_raw --out $@

# A PointNet on furniture, trained once, and the same with half the multiply-adds. Goes on where it was interrupted.
POINTNET_RUN ?= runs/furniture-pointnet
compress: $(VENV)/.train
	test -f $(POINTNET_RUN)/summary.json || \
		$(BIN)/dropfold train furniture-pointnet $(if $(wildcard $(POINTNET_RUN)/config.json),--resume,--out) $(POINTNET_RUN)
	$(BIN)/dropfold compress $(POINTNET_RUN) $(ARGS)

data/local/moving_furniture.h5: | $(VENV)/.train
	$(BIN)/dropfold data moving-furniture

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

# Broken and valid files of every format: make fuzz SEED=7 INPUTS=5000. Minutes; ends with a table of what became of them.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED)) $(if $(INPUTS),--inputs $(INPUTS)) $(ARGS)

# The type checker finds the folders under the name that they are imported by.
PACKAGES := $(shell sed -n 's/^"dropfold\.\([a-z_]*\)" = "\1"/\1/p' pyproject.toml)
lint: $(VENV)/.dev
	mkdir -p build/types/dropfold
	ln -sfn ../../../dropfold/__init__.py ../../../dropfold/__main__.py $(PACKAGES:%=../../../%) build/types/dropfold/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.train: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH_INDEX) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/pip install -q $(TORCH_INDEX) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
