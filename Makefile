# Everything here may be repeated: what is in place already is left alone.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKOV := $(VENV)/checkov/.installed
PYTHON ?= python3
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
# Where kubectl is installed if the machine's own is missing or too old (deploy/install-kubectl.sh).
KUBECTL_FOLDER := $(CURDIR)/$(VENV)/kubectl
export PATH := $(KUBECTL_FOLDER):$(PATH)
# Arguments of the load test; --help teaches them.
BENCH ?= --output build/bench
# Where `make demo-ui` serves the page.
PAGE_AT ?= 127.0.0.1:8080
# Arguments of the soak; --help teaches them.
SOAK ?= --minutes 3
# Arguments of the fuzzer; --help teaches them.
FUZZ ?= --seconds 60

# Node and npm, which build the page of `netpolq ui` and are needed for nothing else; from PyPI, in an environment of their own.
PAGE_TOOLS := $(VENV)/page/.installed
PAGE := netpolq/ui/static/index.html
NPM := PATH="$(CURDIR)/$(VENV)/page/bin:$$PATH" npm
WEB := netpolq/ui/web
WEB_PACKAGES := $(WEB)/node_modules/.installed
WEB_SOURCES := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/tests/*')

# To build the package NetfilterQueue, to run the agent, and for the demo and the tests in network namespaces.
PACKAGES := build-essential python3-dev python3-venv libnetfilter-queue-dev libseccomp2 nftables iproute2 conntrack procps util-linux
# For the tests of monitoring, deployment, scripts, completion and manual page, and for those on a stock Debian kernel.
TEST_PACKAGES := prometheus shellcheck zsh groff-base dnsmasq-base
# For the load test: the references (iptables, ipset, a C program), the compiler of the generator, and what scripts and a shape run.
BENCH_PACKAGES := iptables ipset iperf3 hping3 libnetfilter-queue-dev gcc libc6-dev
# The browser for the tests of the page.
PAGE_PACKAGES := chromium fonts-dejavu-core
VM_PACKAGES := qemu-system-x86 linux-image-amd64 kmod busybox-static ipvsadm

.PHONY: help setup ui check format test test-all test-fast test-netns test-vm test-kernel test-image test-property test-caches test-truth test-hold test-lifecycle test-flows test-ui test-checkov test-monitoring test-loadtest test-setup vm-setup page-setup page-tests demo demo-audit demo-ui bench bench-setup fuzz soak nightly manifests options docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install system packages, the virtual environment and the project; leaves .venv/bin/netpolq

$(STAMP): requirements.lock pyproject.toml deploy/install-packages.sh
	deploy/install-packages.sh $(PACKAGES)
	$(PYTHON) -c 'import sys; sys.exit("netpolq needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Most of the modules are never imported (kubernetes has 73 MB of them), so each is compiled when it is.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)

ui: $(PAGE) ## build the page of `netpolq ui` into netpolq/ui/static, if its sources have changed

$(PAGE): $(WEB_SOURCES) $(WEB_PACKAGES)
	cd $(WEB) && $(NPM) run --silent build
	touch $@

# No package may run a program of its own at installation: none of these needs to.
$(WEB_PACKAGES): $(PAGE_TOOLS) $(WEB)/package.json $(WEB)/package-lock.json
	cd $(WEB) && $(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

$(PAGE_TOOLS): deploy/image/requirements-page.lock
	$(PYTHON) -m venv $(VENV)/page
	$(VENV)/page/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $<
	touch $@

check: $(STAMP) ## static checks: ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## put the code into the one layout and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests of processes that do not look at the clock, so that any number may run beside them.
UNTIMED := $(patsubst %,tests/process/test_%.py,hold failed_start flow_export cluster_agent loglevel log_lines other_user \
	readiness_of_manifests confinement start run_dir policy_status events full_run_dir connection_count least_privilege prometheus \
	packet_log log_denied reload process_limit refused_snapshots support explain_agent flows audit flows_command flows_of_cluster \
	diff_seen flow_traffic demo_audit ui report) tests/loadtest/test_scripts.py tests/loadtest/test_generator.py
# The other ones: the longest first, so that none of them is left alone at the end.
LIFECYCLE := worker_faults takeover takeover_lock kills succession standing_still soak full_table
LONGEST := $(patsubst %,tests/process/test_%.py,$(LIFECYCLE) metrics_clients)
TIMED := $(LONGEST) $(filter-out $(UNTIMED) $(LONGEST),$(wildcard tests/process/test_*.py tests/loadtest/test_*.py))

# Slow tests run only if what they guard has changed since they passed (.ci/guarded); `make test SLOW="vm image"` runs them anyway.
SLOW ?= $(shell .ci/changed)
export NETPOLQ_TEST_SLOW = $(SLOW)
# Tests start hundreds of processes. Without cached byte code each would compile all of its modules.
export PYTHONDONTWRITEBYTECODE =
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder

test: $(STAMP) test-setup bench-setup $(if $(filter vm,$(SLOW)),vm-setup) $(if $(filter ui,$(SLOW)),page-setup) ## all tests, with real packets; slow ones if what they guard has changed (root)
	@# Without cached byte code, each process of the first run would rewrite the assertions of all tests.
	test -d tests/unit/__pycache__ || { for part in "tests/unit tests/property" \
		"tests/netns tests/process tests/packaging tests/loadtest"; do $(BIN)/pytest --collect-only -qq $$part > /dev/null & done; wait; }
	$(if $(filter ui,$(SLOW)),$(MAKE) page-tests)
	@# The virtual machine is busy on one CPU for minutes; beside it runs what does not look at the clock, and mostly waits for the kernel.
	$(PYTEST) -n 4 $(if $(filter vm,$(SLOW)),tests/vm) $(if $(filter ui,$(SLOW)),tests/ui) tests/netns $(UNTIMED) tests/packaging tests/property tests/unit
	@# Most of these wait for processes and kernel. With more at once, they would wait for each other.
	$(PYTEST) -n 3 $(TIMED)

test-all: ## all tests, whatever has changed (root)
	$(MAKE) test SLOW="$$(.ci/changed --all | paste -sd ' ')"

test-fast: $(STAMP) test-setup ## only the tests that need neither root nor a network namespace
	$(BIN)/pytest -q tests/unit tests/property tests/packaging

test-netns: $(STAMP) test-setup bench-setup ## only the tests with real packets in network namespaces (root)
	$(BIN)/pytest tests/netns tests/process tests/loadtest

test-vm: $(STAMP) vm-setup ## only the tests on a stock Debian kernel under software emulation (root)
	NETPOLQ_TEST_SLOW=vm $(BIN)/pytest tests/vm
	.ci/changed --record vm

test-kernel: $(STAMP) test-setup bench-setup ## only the tests of the ruleset and of the waiting process with real packets (root)
	NETPOLQ_TEST_SLOW=kernel $(PYTEST) -n 3 tests/netns/dataplane tests/netns/waiting
	.ci/changed --record kernel

test-image: $(STAMP) test-setup ## only the tests that carry out the steps of the image's recipe
	NETPOLQ_TEST_SLOW=image $(BIN)/pytest -m image tests/packaging
	.ci/changed --record image

test-property: $(STAMP) ## only the property tests in full size, and a moment of the fuzzer
	NETPOLQ_TEST_SLOW=property $(BIN)/pytest -n 2 --dist loadfile tests/property tests/unit/support/test_fuzz.py tests/unit/worker/test_reject.py \
		tests/unit/recommendation/test_rule_cover.py tests/unit/ipc/takeover/test_interleavings.py
	.ci/changed --record property

test-caches: $(STAMP) test-setup bench-setup ## only the changes of policies beside the verdict cache and without it in full size (root)
	NETPOLQ_TEST_SLOW=caches $(PYTEST) -n 2 tests/netns/test_verdict_cache.py tests/netns/test_strict_mode.py tests/netns/test_cluster_policies.py
	.ci/changed --record caches

test-lifecycle: $(STAMP) test-setup bench-setup ## only the kills, takeovers and faults of processes, all of them (root)
	NETPOLQ_TEST_SLOW=lifecycle $(PYTEST) -n 3 $(patsubst %,tests/process/test_%.py,$(LIFECYCLE))
	.ci/changed --record lifecycle

test-flows: $(STAMP) test-setup bench-setup ## only the tests of readers of flows, all of them (root)
	NETPOLQ_TEST_SLOW=flows $(PYTEST) -n 4 $(patsubst %,tests/process/test_%.py,diff_seen flow_traffic flows_command flows_of_cluster)
	.ci/changed --record flows

test-ui: $(STAMP) test-setup bench-setup page-setup ## only the tests of the page in a real browser, and its unit tests (root)
	$(MAKE) page-tests
	NETPOLQ_TEST_SLOW=ui $(BIN)/pytest tests/ui
	.ci/changed --record ui

page-tests: $(WEB_PACKAGES)
	cd $(WEB) && $(NPM) test --silent

test-hold: $(STAMP) test-setup bench-setup ## only the tests of the hold, all of them (root)
	NETPOLQ_TEST_SLOW=hold $(BIN)/pytest tests/process/test_hold.py
	.ci/changed --record hold

test-truth: $(STAMP) test-setup bench-setup ## only the truth table with real packets in full size (root)
	NETPOLQ_TEST_SLOW=truth $(BIN)/pytest tests/netns/test_truth_table.py
	.ci/changed --record truth

test-checkov: $(STAMP) test-setup $(CHECKOV) ## only the security checks of the manifests
	NETPOLQ_TEST_SLOW=checkov $(BIN)/pytest -m checkov tests/packaging
	.ci/changed --record checkov

test-monitoring: $(STAMP) test-setup ## only the tests of the alerts by promtool, with the labels of each way to scrape
	NETPOLQ_TEST_SLOW=monitoring $(BIN)/pytest -m monitoring tests/packaging
	.ci/changed --record monitoring

test-loadtest: $(STAMP) test-setup bench-setup ## only the quick runs of the load test's shapes (root)
	NETPOLQ_TEST_SLOW=loadtest $(BIN)/pytest -m loadtest tests/loadtest
	.ci/changed --record loadtest

test-setup: $(STAMP) $(if $(filter checkov,$(SLOW)),$(CHECKOV))
	deploy/install-packages.sh $(TEST_PACKAGES)
	deploy/install-kubectl.sh $(BIN)/python $(KUBECTL_FOLDER)

# In an environment of its own, because what it depends on clashes with the rest.
$(CHECKOV): deploy/lint/requirements-checkov.lock
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $<
	touch $@

vm-setup: $(STAMP)
	deploy/install-packages.sh $(VM_PACKAGES)

page-setup: $(STAMP) $(PAGE)
	deploy/install-packages.sh $(PAGE_PACKAGES)

demo: $(STAMP) ## a small cluster in a box: its connectivity without policies, with them, with cluster-wide ones, and after a live edit (root)
	$(BIN)/python -m tests.demo

demo-audit: $(STAMP) ## a shop without policies: observe, recommend, audit, mend, enforce, each step with real connections (root)
	$(BIN)/python -m tests.demo.audit

demo-ui: $(STAMP) $(PAGE) ## the cluster in a box with traffic, and its page until Ctrl-C; PAGE_AT=127.0.0.1:8080 (root)
	$(BIN)/python -m tests.demo.page --listen $(PAGE_AT)

bench: $(STAMP) bench-setup ## load test beside references: table and build/bench/report.html; BENCH="--help" (root)
	$(BIN)/python -m loadtest $(BENCH)

fuzz: $(STAMP) ## bytes that a guided fuzzer makes up, into parser, snapshot, messages and CNI results; FUZZ="--seconds 600"
	$(BIN)/python -m tests.fuzz $(FUZZ)

soak: $(STAMP) test-setup ## minutes of traffic, changes, kills and upgrades with promises checked; SOAK="--minutes 30" (root)
	$(BIN)/python -m tests.soak $(SOAK)

nightly: $(STAMP) test-setup ## what takes too long for each change: soak in both modes, fuzzer, slow tests; some minutes each (root)
	$(BIN)/python -m tests.soak --minutes 3 --seed $$(date +%j)
	$(BIN)/python -m tests.soak --minutes 3 --seed $$(date +%j) --fail-open
	$(BIN)/python -m tests.fuzz --seconds 60
	$(MAKE) test-vm test-kernel test-image test-property test-caches test-truth test-hold test-lifecycle test-flows test-ui test-checkov test-monitoring test-loadtest

bench-setup: $(STAMP)
	deploy/install-packages.sh $(BENCH_PACKAGES)

manifests: $(STAMP) ## write deploy/install*.yaml and the image of overlays and chart, from deploy/image/reference.env
	deploy/install-kubectl.sh $(BIN)/python $(KUBECTL_FOLDER)
	$(BIN)/python deploy/manifests.py

options: $(STAMP) ## write config/netpolq.toml and the table of flags in README.md, from netpolq/settings
	$(BIN)/python config/generate.py

docs: $(STAMP) ## build the documentation into build/site, with links and anchors checked
	$(BIN)/zensical build --strict --clean

lock: ## resolve the dependencies again and write all lock files
	$(UV_COMPILE) --extra dev --extra vm --extra bench --output-file requirements.lock pyproject.toml
	$(UV_COMPILE) --constraints requirements.lock --output-file deploy/image/requirements-runtime.lock pyproject.toml
	$(UV_COMPILE) --output-file deploy/image/requirements-build.lock deploy/image/requirements-build.in
	$(UV_COMPILE) --output-file deploy/image/requirements-page.lock deploy/image/requirements-page.in
	$(UV_COMPILE) --output-file deploy/lint/requirements-checkov.lock deploy/lint/requirements-checkov.in
	$(UV_COMPILE) --no-deps --output-file deploy/lint/requirements-kubectl.lock deploy/lint/requirements-kubectl.in

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache dist build netpolq/ui/static netpolq/ui/web/node_modules
