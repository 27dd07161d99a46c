# `make` alone lists the targets. Every target that runs Python builds .venv first, if it is not up to date.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-elsewhere test-site site bench mutants gpu-check lab format clean

RUN := runs/digits
PY := .venv/bin/python
# Processes that run tests side by side, one thread each.
WORKERS := 2
STAMP := .venv/.installed
SITE := build/site
SITE_STAMP := .venv/.installed-site

# The pages, each the work of one process: the longest begin, after the test that runs one by papermill.
LONGEST := $(patsubst %,notebooks/%.ipynb,06_training 09_judging 07a_speed 13_imagenet 14_published_checkpoints \
	04a_training_a_pyramid 13a_own_pictures 02_raster 05a_loss_and_loop 01_images_as_tokens 07_sampling)
PAPERMILL := tests/test_notebook_13.py
PAGES := $(PAPERMILL) $(LONGEST) $(filter-out $(LONGEST),$(sort $(wildcard notebooks/*.ipynb)))

# Notebooks name the kernel `python3`: let that be .venv's, whatever else the machine has.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH PYTHONHOME

help:  ## list the targets
	@echo "minivar: visual autoregressive modelling, from a digit to ImageNet."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: $(STAMP)  ## train the digits preset from notebooks/06_training.ipynb into runs/digits and report
	@mkdir -p $(RUN)
	$(PY) -m papermill notebooks/06_training.ipynb $(RUN)/06_training.ipynb \
		-p preset digits -p out "$(CURDIR)/$(RUN)" -p progress True -p num_samples 2000 --cwd notebooks --progress-bar --log-output
	@$(PY) -m minivar.cli report $(RUN)
	@$(PY) -m minivar.cli evaluate --checkpoint $(RUN) --json $(RUN)/evaluation.json

test: $(STAMP)  ## lint, check spelling and imports, run the tests, then every notebook
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	@for nb in notebooks/*.ipynb; do \
		$(PY) -m jupytext --quiet --to py:percent --output - "$$nb" | $(PY) -m codespell_lib - \
			|| { echo "The lines above are in $$nb."; exit 1; }; \
	done
	.venv/bin/lint-imports
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --ignore=$(PAPERMILL)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(PAGES)

# Another processor and another number of threads add the same numbers up in another order. PyTorch's own kernels
# without vector instructions, and oneDNN's with the oldest, are the furthest that one machine can go from itself.
ELSEWHERE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
NUMERICAL := parity parity_llamagen smooth_sampling sampler quantizers vector_quantizer tokenizer transformer raster \
	raster_training losses metrics scales shipped data data_digits data_emoji data_emoji_world dit maskgit products \
	exercises train loop_by_hand gan_training serving_continuous

test-elsewhere: $(STAMP)  ## run the numerical tests as another processor would, on one thread and on four
	@for threads in 1 4; do \
		echo "$(ELSEWHERE), threads: $$threads"; \
		$(ELSEWHERE) OMP_WAIT_POLICY=passive MINIVAR_TEST_THREADS=$$threads $(PY) -m pytest -q -n $(WORKERS) \
			-m "not slow and not distributed" $(NUMERICAL:%=tests/test_%.py) || exit 1; \
	done

site: $(SITE_STAMP)  ## build the book as a web site in build/site, whose first page draws in the browser
	OMP_NUM_THREADS=1 $(PY) -m docs.build_site $(SITE)

test-site: site  ## open every page of the site in Chromium, follow every link, draw digits
	MINIVAR_SITE="$(CURDIR)/$(SITE)" OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/test_site_text.py \
		tests/test_site_export.py tests/test_site_pages.py tests/test_site_browser.py

bench: $(STAMP)  ## time sampling, coding and training against a plain reference (half an hour on two quiet cores)
	$(PY) -m experiments.bench

mutants: $(STAMP)  ## make small faults in the numerical core, one at a time, and count how many a test notices (10 minutes)
	$(PY) experiments/mutants.py

gpu-check: $(STAMP)  ## try on the GPUs of this machine what no test can try without one, and write gpu-report.md
	$(PY) experiments/gpu_check.py

lab: $(STAMP)  ## open the book in JupyterLab
	$(PY) -m jupyterlab notebooks

format: $(STAMP)  ## format the code and the notebooks and apply safe lint fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove caches and build leftovers; .venv and runs/ stay
	rm -rf build *.egg-info .pytest_cache .ruff_cache
	find minivar notebooks tests data experiments \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +

# The stamp is written last, so an interrupted install is done again by the next make. pip writes INSTALLER when a
# package is complete: one without it was cut short, and pip must not take it for installed.
$(STAMP): requirements.lock pyproject.toml
	@rm -f $(STAMP)
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		found=; \
		for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python3.14; do \
			if "$$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' \
				2>/dev/null; then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "minivar needs Python 3.10 to 3.14, but python3 is" \
				"$$(python3 --version 2>/dev/null || echo 'not installed'):" \
				"install one, or name it as in 'make PYTHON=/path/to/python3'." >&2; \
			exit 1; \
		fi; \
		echo "Creating .venv with $$("$$found" --version)."; \
		"$$found" -m venv --clear .venv; \
	fi
	@for info in .venv/lib/python*/site-packages/*.dist-info; do \
		[ -e "$$info/INSTALLER" ] || rm -rf "$$info"; \
	done
	@echo "Installing requirements.lock into .venv (the first time, PyTorch takes some minutes and, on Linux, 6 GB)."
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

# Sphinx and its theme, for those who build the site.
$(SITE_STAMP): $(STAMP) site.lock
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The site needs Python 3.11 or newer, but .venv has $$($(PY) --version)." >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock -r site.lock
	@touch $(SITE_STAMP)
