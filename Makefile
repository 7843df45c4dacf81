# Two commands for a newcomer: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= python3
SENTENCE ?= 작은 빨간 구가 파란 정육면체 왼쪽에서 돈다
BIN := .venv/bin

.PHONY: demo test test-slow test-long lint check lock clean figures pictures gallery bench-demo bench-speed bench-matrix bench-nano bench-codecs bench-load bench-counts bench-serve bench-planner bench-examples debs

demo: .venv/run  ## one sentence to picture, speech, video and 3D: out/index.html
	$(BIN)/onnuri demo "$(SENTENCE)"

test test-slow test-long: export PYTHONDONTWRITEBYTECODE =  # many processes read what the first compiled

test: .venv/dev debs  ## what a newcomer and CI run
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: .venv/dev debs
	$(BIN)/pytest -m slow -n 2 --dist worksteal

test-long: .venv/dev debs  ## more cases of what slow tests show
	$(BIN)/pytest -m long -n 2 --dist worksteal

debs:  ## Debian's packages that tests need: a browser, PostgreSQL, a C compiler
	@missing=""; command -v chromium >/dev/null || missing="chromium"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "tests need Debian's $$missing: sudo apt-get install $$missing" >&2; exit 1; fi; fi

lint: .venv/dev
	$(BIN)/ruff check onnuri tests benchmarks
	$(BIN)/ruff format --check onnuri tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: locks/run.lock pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q --disable-pip-version-check -r locks/run.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q onnuri  # or every start compiles it, where PYTHONDONTWRITEBYTECODE is set
	touch $@

.venv/dev: locks/dev.lock .venv/run
	$(BIN)/pip install -q --disable-pip-version-check -r locks/dev.lock
	touch $@

lock: .venv/dev  ## write the lock files anew from what pyproject.toml admits
	$(BIN)/python locks/make.py

figures:  ## write README's and docs' figures from benchmarks/results
	$(BIN)/python benchmarks/figures.py

gallery:  ## twelve random outputs for README
	$(BIN)/python benchmarks/gallery.py

bench-demo: .venv/dev  ## what `make demo` costs once installed
	$(BIN)/python benchmarks/demo.py

pictures:  ## README's strips of what the demo makes
	$(BIN)/python benchmarks/pictures.py

bench-speed: .venv/dev  ## seconds a generated item, items rendered a second
	$(BIN)/python benchmarks/speed.py

bench-serve: .venv/dev  ## decoding beside transformers and vLLM (VLLM=its Python), first picture and sound
	$(BIN)/python benchmarks/serve_speed.py $(if $(VLLM),--vllm $(VLLM))

bench-examples: .venv/dev  ## which sentences the empty page may show: right in every output under fresh seeds
	$(BIN)/python benchmarks/page_examples.py

bench-planner: .venv/dev  ## the planner's speed, every source and every model of published runs left out in turn
	$(BIN)/python benchmarks/planner_cv.py

bench-matrix: .venv/dev  ## the matrix that README shows
	$(BIN)/onnuri evaluate matrix --items 100 --json benchmarks/results/matrix.json

bench-nano: .venv/dev  ## the five systems in small: twenty minutes each, then their matrices
	$(BIN)/python benchmarks/nano.py

bench-counts: .venv/dev  ## tokens of the five systems over growing clusters
	$(BIN)/python benchmarks/plan_counts.py

bench-load: .venv/dev  ## sixty-four clients for five minutes, with the bars of waiting and of memory
	ONNURI_LOAD_MINUTES=5 ONNURI_LOAD_BARS=1 $(BIN)/pytest -m slow tests/server/test_load.py

bench-codecs: .venv/dev  ## the quality cards
	$(BIN)/onnuri evaluate codecs --items 100 --json benchmarks/results/codecs.json

clean:
	rm -rf .venv out runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
