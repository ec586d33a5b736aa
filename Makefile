# Needs python3 (3.11 or later), make and the package index; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
SET_UP := .venv/.set-up

.PHONY: demo test check scenarios soak backfill histories mutations crash torture fuzz bench cost memory reporting picture lock clean

demo: $(SET_UP)   ## the main job, on the sample export, against a stand-in platform on loopback
	@$(BIN)/python sample_data/demo.py

test: $(SET_UP)   ## all tests
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

check: $(SET_UP)  ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

scenarios: $(SET_UP)   ## how much of an endpoint's capacity is used, in virtual time: writes docs/delivery.md
	@$(BIN)/python -m benchmarks.scenarios --write

soak: $(SET_UP)   ## 100,000 rows to an endpoint that fails in every way (some minutes)
	@CONSENT_SYNC_SOAK_ROWS=100000 $(BIN)/python -m pytest -q tests/test_delivery.py -k soak

histories: $(SET_UP)   ## ten thousand histories of accidents, on all cores (half an hour; CONSENT_SYNC_HISTORIES=N for less)
	@$(BIN)/python -m tests.test_histories

backfill: $(SET_UP)   ## a backfill of two million rows, killed ten times (about half an hour)
	@CONSENT_SYNC_BACKFILL_ROWS=2000000 $(BIN)/python -m pytest -q -s tests/test_backfill.py -k killed

mutations: $(SET_UP)   ## old faults put back, which histories have to find (an hour): writes docs/histories.md
	@$(BIN)/python -m tests.mutations

crash: $(SET_UP)   ## die at every durable operation and at every system call that writes (most of an hour): writes docs/state.md
	@$(BIN)/python -m tests.test_crash --write
	@$(BIN)/python -m tests.strace

torture: $(SET_UP)   ## 500 random kills of runs of 50,000 rows, with faults on the wire (about half an hour)
	@$(BIN)/python -m tests.torture

fuzz: $(SET_UP)   ## damaged exports of every format (some minutes; CONSENT_SYNC_FUZZ=N mutations, CONSENT_SYNC_FUZZ_SEED=S to repeat)
	@$(BIN)/python -m tests.fuzzing

bench: $(SET_UP)   ## reading ten million rows, beside pyarrow alone (ROWS=N for less)
	@$(BIN)/python -m benchmarks.reading $(ROWS)

cost: $(SET_UP)   ## what the machinery of sending costs beside a bare aiohttp loop (needs nginx)
	@$(BIN)/python -m benchmarks.cost

memory: $(SET_UP)   ## what runs of 1, 5 and 10 million rows hold in memory, and whether it grows while they send
	@$(BIN)/python -m benchmarks.memory

picture: $(SET_UP)   ## the picture of a report page in README, of what `make demo` left: writes docs/report.png (needs chromium)
	@$(BIN)/python -m tests.picture

lock: $(SET_UP)   ## pin the newest versions that pyproject.toml allows
	@$(BIN)/python -m pip install -q pip-tools
	@$(BIN)/pip-compile -q --upgrade --extra dev --generate-hashes --strip-extras --allow-unsafe --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml
	@$(BIN)/pip-compile -q --extra remote --extra holidays --build-deps-for wheel --constraint requirements.lock \
		--generate-hashes --strip-extras --allow-unsafe --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o deploy/requirements.lock pyproject.toml

$(SET_UP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "consent-sync needs Python 3.11 or later")'
	@echo "setting up .venv (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:            ## remove what make has made
	@rm -rf .venv demo artefacts .mypy_cache .ruff_cache .pytest_cache .hypothesis
