# Esclusa. `make demo` and `make test` install what they need into .venv and do the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes fit a small machine; each starts servers of its own.
TEST_PROCESSES ?= 2
TESTS ?= tests
PYTEST_OPTIONS ?=
OUTAGE_SECONDS ?= 180
SOAK_SECONDS ?= 1800
WRITERS_SECONDS ?= 600
# Hashes, and no registry's address. What is deployed has the versions that were tested.
COMPILE_FILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header
COMPILE = $(COMPILE_FILE) pyproject.toml
# What images are made from, and what they are built with.
IMAGE_EXTRAS := base extractor processor publisher control local-server build

# Settings of a deployment that there is not, for templates to be looked at.
RENDERED = ESCLUSA_DEPLOYMENT=aws ESCLUSA_LEDGER_DSN=secretsmanager:esclusa/ledger\#dsn \
	ESCLUSA_WAREHOUSE_DSN=secretsmanager:esclusa/warehouse\#dsn ESCLUSA_INFRA_CODE_BUCKET=example-code \
	ESCLUSA_INFRA_CODE_FILE=pyproject.toml
RENDERED_WHOLE = ESCLUSA_BUCKET_PREFIX=whole ESCLUSA_ALARM_TOPIC_ARN=arn:aws:sns:eu-west-1:111122223333:on-call \
	ESCLUSA_INFRA_KMS_KEY_ARN=arn:aws:kms:eu-west-1:111122223333:key/1 \
	ESCLUSA_INFRA_LAMBDA_SUBNET_IDS='["subnet-0123456789abcdef0"]' \
	ESCLUSA_INFRA_LAMBDA_SECURITY_GROUP_IDS='["sg-0123456789abcdef0"]' \
	ESCLUSA_INFRA_OIDC_PROVIDER_ARN=arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/A \
	ESCLUSA_WAREHOUSE=redshift ESCLUSA_REDSHIFT_WORKGROUP=analytics ESCLUSA_REDSHIFT_DATABASE=dev \
	ESCLUSA_REDSHIFT_COPY_ROLE_ARN=arn:aws:iam::111122223333:role/copy \
	ESCLUSA_INFRA_REDSHIFT_ARN=arn:aws:redshift-serverless:eu-west-1:111122223333:workgroup/analytics

.PHONY: help demo test images images-check containers chaos outages rolling-restart soak writers crash-points bench lint infra-lint format up down lambdas lock clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.local ## Run the main job from end to end on this machine, and prove that nothing is missing.
	$(BIN)/python -m local.demo

up: $(VENV)/.local ## Start the fleet on this machine and leave it running.
	$(BIN)/esclusa up

down: $(VENV)/.local ## Stop the fleet on this machine; the data in .esclusa stays.
	$(BIN)/esclusa down

test: $(VENV)/.dev ## Run all tests.
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder -rs $(PYTEST_OPTIONS) $(TESTS)

chaos: $(VENV)/.dev ## Break every side effect of a batch on a real fleet, one at a time. CHAOS_SAMPLE=20 does some.
	PYTHONPATH=.:tests $(BIN)/python -m chaos.sweep

outages: $(VENV)/.dev ## Take each part away from a running fleet for 3 minutes, and measure who asks; OUTAGE_SECONDS says otherwise.
	@mkdir -p dist
	OUTAGE_SECONDS=$(OUTAGE_SECONDS) OUTAGE_REPORT=dist/outages.jsonl $(BIN)/python -m pytest tests/e2e/test_outages.py

rolling-restart: $(VENV)/.dev ## Replace all workers under load, three times, and measure what it costs.
	@mkdir -p dist
	RESTART_ROUNDS=3 RESTART_REPORT=dist/rolling-restart.json $(BIN)/python -m pytest tests/e2e/test_rolling_restart.py

soak: $(VENV)/.dev ## Half an hour of kills, doubled messages and live writes; SOAK_SECONDS says otherwise.
	ESCLUSA_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/e2e/test_soak.py

bench: $(VENV)/.dev ## Measure extraction against psql and pyodbc, and its memory. BENCH_ROWS=200000 is quicker, see bench/__main__.py.
	PYTHONPATH=.:tests $(BIN)/python -m bench

writers: $(VENV)/.dev ## Twenty writers at once for ten minutes, at two databases; WRITERS_SECONDS says otherwise.
	WRITERS_SECONDS=$(WRITERS_SECONDS) $(BIN)/python -m pytest -s tests/e2e/test_concurrent_writers.py

crash-points: $(VENV)/.dev ## Hit each side effect of a batch's way in each mode, in memory, and write the table in docs/delivery.md.
	PYTHONPATH=.:tests $(BIN)/python -m support.crash_points --write

lint: $(VENV)/.dev ## Run linters, type check and import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

infra-lint: $(VENV)/.dev $(VENV)/.checkov ## Render the templates, with and without all choices, and run cfn-lint and checkov.
	rm -rf dist/infra-lint
	$(RENDERED) $(BIN)/esclusa infra render --out dist/infra-lint/plain >/dev/null
	$(RENDERED) $(RENDERED_WHOLE) $(BIN)/esclusa infra render --out dist/infra-lint/whole >/dev/null
	$(BIN)/cfn-lint --regions eu-west-1 --non-zero-exit-code informational -- dist/infra-lint/*/*.json
	$(VENV)/checkov/bin/checkov --config-file infra/checkov.yaml --directory dist/infra-lint

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

images: ## Build the images of the fleet; their bills of materials go to dist/images. Needs a container engine, and no .venv.
	$(PYTHON) -m infra.images build

images-check: ## Build each image twice, the second time from nothing, and compare all files. IMAGE=esclusa-extractor checks one.
	$(PYTHON) -m infra.images check $(if $(IMAGE),--image $(IMAGE))

containers: $(VENV)/.dev images ## Run the main job in containers, scaled, kill one of them, and compare row by row.
	$(BIN)/python -m pytest -rs tests/e2e/test_containers.py

lambdas: $(VENV)/.local ## Build dist/lambdas.zip, the code of all Lambdas.
	$(BIN)/python -m infra.package

lock: $(VENV)/.dev ## Compile requirements/*.txt anew from pyproject.toml.
	$(COMPILE) --extra dev -o requirements/dev.txt
	$(COMPILE_FILE) requirements/checkov.in -o requirements/checkov.txt
	$(COMPILE) --extra local -c requirements/dev.txt -o requirements/local.txt
	for extra in lambdas $(IMAGE_EXTRAS); do \
		$(COMPILE) --extra $$extra -c requirements/dev.txt -o requirements/$$extra.txt || exit 1; \
	done

clean: ## Stop the fleet and delete the environment and all local data.
	@if [ -x $(BIN)/esclusa ]; then $(BIN)/esclusa down --delete-data; fi
	rm -rf $(VENV) .esclusa dist

# A stamp says which lock file the environment was made from. The larger set holds the smaller one.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Esclusa needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.local: $(VENV)/.python requirements/local.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/local.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.local requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# checkov pins libraries that we have in other versions: it lives apart.
$(VENV)/.checkov: $(VENV)/.python requirements/checkov.txt
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/checkov.txt
	@touch $@
