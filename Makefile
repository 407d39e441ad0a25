# fedmq: `make` alone says what there is. A machine needs Python 3.11 or newer with its venv module.

SHELL := /bin/sh
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?=
PYTEST_ARGS ?=
TEST_JOBS ?= 3
NEEDS := rabbitmq-server
MATRIX_ARGS ?=
CHAOS_ARGS ?= --seeds 20 --rounds 12
CLUSTER_ARGS ?= --rounds 30
SOAK_ARGS ?= --rounds 1000
BENCH_ARGS ?=
DASHBOARD_ARGS ?=
DEMO_ARGS ?= --task digits --workers 8 --rounds 20 --partition dirichlet:0.5

PINS := pyproject.toml constraints.txt

.PHONY: help demo dashboard test matrix chaos cluster soak bench docs settings-page lint format clean system

help:
	@echo 'make demo       train the digits demo with 8 workers in one process, without a broker'
	@echo 'make dashboard  the page of the runs in runs/, the demo'"'"'s among them, at http://localhost:8080'
	@echo 'make test       run every test, the ones on a private RabbitMQ included'
	@echo 'make matrix     every algorithm x every disturbance, as a table: MATRIX_ARGS="--only fedadam" has one of them'
	@echo 'make chaos      kill, pause and cut at random: CHAOS_ARGS="--seed 7 --rounds 20" repeats one seed'
	@echo 'make cluster    the same over three nodes, which are killed, restarted, paused and cut off'
	@echo 'make soak       1,000 rounds with workers that come and go'
	@echo 'make bench      measure: BENCH_ARGS=--help says what, BENCH_ARGS="--json FILE" keeps the figures'
	@echo 'make docs       build the documents into site/'
	@echo 'make settings-page  write docs/settings.md anew, out of the models'
	@echo 'make lint       check format, lint and types'
	@echo 'make format     put the sources in that format'
	@echo 'make clean      remove $(VENV), .bench and what the tools leave'
	@echo
	@echo 'PYTHON=...       the interpreter to use; without it, the first on PATH that is 3.11 or newer'
	@echo 'DEMO_ARGS=...    arguments of fl-simulate       PYTEST_ARGS=...  further arguments of pytest'
	@echo 'TEST_JOBS=3      tests that run at a time: they mostly wait for processes; 0: one after the other, in this process'
	@echo 'On Linux without a GPU, PIP_EXTRA_INDEX_URL set to the index of PyTorch'"'"'s CPU wheels saves gigabytes.'

demo: $(VENV)/.installed-demo
	$(BIN)/fl-simulate $(DEMO_ARGS)

dashboard: $(VENV)/.installed-demo
	@mkdir -p runs
	$(BIN)/fl-dashboard --state runs $(DASHBOARD_ARGS)

test: NEEDS := rabbitmq-server chromium chromium-driver prometheus build-essential
test: $(VENV)/.installed-test system
	FEDMQ_REQUIRE_BROKER=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

matrix: $(VENV)/.installed-test
	PYTHONPATH=tests:. $(BIN)/python -m matrix $(MATRIX_ARGS)

chaos: $(VENV)/.installed-test system
	PYTHONPATH=tests:. $(BIN)/python -m chaos.storm $(CHAOS_ARGS)

cluster: $(VENV)/.installed-test system
	PYTHONPATH=tests:. $(BIN)/python -m cluster $(CLUSTER_ARGS)
	PYTHONPATH=tests:. $(BIN)/python -m cluster --points
	PYTHONPATH=tests:. $(BIN)/python -m chaos.storm --cluster $(CHAOS_ARGS)

soak: $(VENV)/.installed-test system
	PYTHONPATH=tests:. $(BIN)/python -m soak.endurance $(SOAK_ARGS)

bench: $(VENV)/.installed-test system
	PYTHONPATH=tests:. $(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@if grep -rEho '<(script|link|img)[^>]+(src|href)="?https?://[^" >]+' site; then \
	    echo 'docs: a page would load this from elsewhere' >&2; exit 1; \
	fi
	@if find site -name '*.html' -exec sed 's/<[^>]*>//g' {} + | grep -E -e '-- ?8 ?&lt;'; then \
	    echo 'docs: a page shows an include in place of what it includes' >&2; exit 1; \
	fi

settings-page: $(VENV)/.installed-demo
	$(BIN)/python -m scaffold.settings_page docs/settings.md

lint: $(VENV)/.installed-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict

format: $(VENV)/.installed-lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .bench site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ----------------------------------------------------------------------------

# A stamp says that pip has ended well with these pins; the sources themselves are used where they lie.
$(VENV)/.installed-%: $(PINS) | $(VENV)/.created
	@echo 'Installing the pinned packages for $* into $(VENV): the first time takes some minutes.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@

EXTRAS_demo := demo
EXTRAS_test := demo,test,examples,dp
EXTRAS_lint := lint
EXTRAS_docs := docs

$(VENV)/.created:
	@python='$(PYTHON)'; \
	is_new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	for name in $${python:-python3 python3.11 python3.12 python3.13 python3.14 python}; do \
	    if is_new_enough "$$name"; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "fedmq needs Python 3.11 or newer, and $${python:-python3 on PATH} is not: install it," \
	        "or name one with make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$found has no venv module that can install pip: apt install python3-venv" >&2; exit 1; \
	fi; \
	rm -rf '$(VENV)'; \
	"$$found" -m venv '$(VENV)' && touch $@

# --- what the tests need of the system ----------------------------------------------------------

# RabbitMQ, a browser for the page, Prometheus for the metrics. The tests start their own, so services of these
# packages are neither started nor enabled. A policy-rc.d that ends with 101 is Debian's way to say so; one that is
# already there comes back afterwards.
define INSTALL_PACKAGES
set -e
policy=/usr/sbin/policy-rc.d
put_back() { rm -f $$policy; if [ -e $$policy.before-fedmq ]; then mv $$policy.before-fedmq $$policy; fi; }
if [ -e $$policy ]; then mv $$policy $$policy.before-fedmq; fi
trap put_back EXIT
trap "exit 130" INT TERM HUP
printf "#!/bin/sh\nexit 101\n" >$$policy
chmod 755 $$policy
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "$$@"
if command -v systemctl >/dev/null; then
    for name in rabbitmq-server prometheus; do systemctl disable $$name >/dev/null 2>&1 || true; done
fi
endef
export INSTALL_PACKAGES

system:
	@missing=; \
	has() { command -v "$$1" >/dev/null || [ -x "/usr/sbin/$$1" ] || [ -x "/usr/lib/rabbitmq/bin/$$1" ]; }; \
	for name in $(NEEDS); do \
	    case $$name in chromium-driver) command=chromedriver;; build-essential) command=cc;; *) command=$$name;; esac; \
	    if [ -n "$$FEDMQ_TEST_BROKER" ] && [ $$name = rabbitmq-server ]; then continue; fi; \
	    if ! has $$command; then missing="$$missing $$name"; fi; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	    echo "the tests need what Debian has as:$$missing; install it, so that it is on PATH" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then as_root=; \
	elif sudo -n true 2>/dev/null; then as_root='sudo -n'; \
	else \
	    echo "the tests need: sudo apt install --no-install-recommends$$missing" >&2; exit 1; \
	fi; \
	echo "Installing for the tests:$$missing; no service is started."; \
	$$as_root sh -c "$$INSTALL_PACKAGES" sh $$missing
