# Every target sets up what it needs. `make help` lists them.

VENV ?= .venv
# Which Python the venv is made from: by default the first that tools/find-python finds.
PYTHON ?=
# More arguments for the program that a target runs: make test ARGS="-k nats -x"
ARGS ?=
# How many processes share the tests, which often wait: three more than there are processors. 0 runs them in one, as a
# debugger wants it.
WORKERS ?= $(shell expr 3 + $$(getconf _NPROCESSORS_ONLN))

run := $(VENV)/bin
compiled := $(if $(WSFLEET_NO_EXTENSIONS),,$(VENV)/.compiled)
pip := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input -q

.PHONY: help demo test check test-all simulate soak soak-policies mutants fuzz autobahn bench docs audit servers clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.library $(compiled) ## 1,000 connections to a local server that misbehaves, for 15 seconds
	@$(run)/wsfleet demo $(ARGS)

test: $(VENV)/.dev $(compiled) servers ## the whole test suite
	PYTHONASYNCIODEBUG=1 PYTHONDONTWRITEBYTECODE= $(run)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(VENV)/.dev ## format, lint, types, and who may import whom
	$(run)/ruff format --check
	$(run)/ruff check
	$(run)/mypy
	$(run)/lint-imports

test-all: servers ## the test suite on every Python of 3.11 to 3.14 that is found
	@tools/find-python >/dev/null
	@tools/find-python --all | while read -r python; do \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	    echo "== Python $$version ==" && \
	    $(MAKE) --no-print-directory test VENV=".venv-$$version" PYTHON="$$python" </dev/null || exit 1; \
	done

simulate: $(VENV)/.dev $(compiled) ## thousands of fleets live through random faults in a world of their own, from seeds
	@$(run)/python -m tools.simulate $(ARGS)

soak: $(VENV)/.dev $(VENV)/.bench $(compiled) ## ten minutes of 2,000 connections, with faults at random; makes a page with plots
	@$(run)/python -m tools.soak $(ARGS)

soak-policies: $(VENV)/.dev $(compiled) ## a minute of flood for each overflow policy
	@$(run)/python -m tools.soak_policies $(ARGS)

mutants: $(VENV)/.dev $(compiled) ## faults planted in the core, one at a time; the tests must find each
	@$(run)/python -m tools.mutants $(ARGS)

fuzz: $(VENV)/.fuzz $(compiled) ## three minutes of bytes that nobody meant: frames, the wire, the handshake
	@tools/install-headers $(run)/python
	@$(run)/python -m tools.fuzz $(ARGS)

autobahn: $(VENV)/.dev $(compiled) .venv-autobahn/.server ## the 517 cases of Autobahn|Testsuite; needs Python 2.7
	@$(run)/python -m tools.autobahn --server-python .venv-autobahn/server/bin/python $(ARGS)

bench: $(VENV)/.bench $(compiled) ## all that is measured, beside what people write by hand; in about 25 minutes
	@$(run)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev $(VENV)/.docs $(compiled) ## the site, into build/docs; every link and every block of code is checked
	$(run)/python -m tools.check_docs
	$(run)/python -m sphinx -q -W --keep-going -n -b html docs build/docs
	$(run)/python -m tools.check_site build/docs

audit: .venv-audit/.made ## known weaknesses in the pinned versions; needs the network, and ends with 3 without it
	@$(run)/python tools/audit.py .venv-audit/bin/pip-audit

servers:
	@tools/install-servers

clean: ## remove what the other targets made
	@for venv in .venv .venv-*; do if [ -e $$venv/.made ] || [ -e $$venv/.library ]; then rm -rf $$venv; fi; done
	rm -rf build dist src/*.egg-info tests/support/servers/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '_*.so' -delete

# A venv that somebody made by hand is not ours to delete: .made marks those that are. The build tools are pinned like
# everything else, so the build must not fetch its own. What is compiled comes after the installing: pip would not show
# its warnings.
$(VENV)/.library: pyproject.toml constraints.txt
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.made ] && [ ! -e $@ ]; then \
	    echo "$(VENV) was not made by make: remove it, or name another place, as in make VENV=.venv-make" >&2; exit 1; \
	fi
	@python='$(PYTHON)'; python=$${python:-$$(tools/find-python)} && \
	    rm -rf $(VENV) && mkdir -p $(VENV) && touch $(VENV)/.made && \
	    echo "making $(VENV), and installing wsfleet in it" && "$$python" -m venv $(VENV)
	@$(pip) install -c constraints.txt pip setuptools Cython
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[cli,fast]'
	@touch $@

$(VENV)/.dev: $(VENV)/.library
	@echo "installing what tests and checks need"
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The compiled parts, beside their sources; without a compiler, a warning, and all works in Python alone. Those of before
# go first: where the new ones cannot be compiled, old ones would be in use.
$(VENV)/.compiled: $(VENV)/.library setup.py $(shell find src -name '_*.pyx')
	@tools/install-headers $(run)/python
	@echo "compiling"; suffix=$$($(run)/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') && \
	    rm -rf build && find src -name "_*$$suffix" -delete
	@$(run)/python setup.py -q build_ext --inplace
	@touch $@

# Where there is no atheris to install, what needs it is skipped.
$(VENV)/.fuzz: $(VENV)/.dev
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation --only-binary atheris -e '.[fuzz]' || \
	    echo "atheris could not be installed: see what make fuzz skips"
	@touch $@

$(VENV)/.docs: $(VENV)/.library
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.library
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@

# What looks for weaknesses is no part of what is looked at, so it has a place of its own.
.venv-audit/.made: $(VENV)/.library
	@rm -rf $(@D) && $(run)/python -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --no-input -q install 'pip-audit>=2.9,<3'
	@touch $@

# Autobahn|Testsuite's server, in a Python 2.7 of its own. The last virtualenv that makes such runs on Python 3.
.venv-autobahn/.server: tools/autobahn/constraints.txt
	@python2=$$(tools/find-python2) && python='$(PYTHON)' && python=$${python:-$$(tools/find-python)} && \
	    rm -rf $(@D) && mkdir -p $(@D) && touch $(@D)/.made && echo "making $(@D)" && "$$python" -m venv $(@D) && \
	    $(@D)/bin/python -m pip --disable-pip-version-check --no-input -q install -c $< virtualenv && \
	    $(@D)/bin/python -m virtualenv -q -p "$$python2" --app-data $(@D)/seeds --no-periodic-update $(@D)/server
	@$(@D)/server/bin/python -m pip --disable-pip-version-check --no-python-version-warning --no-input -q \
	    install -c $< autobahntestsuite
	@touch $@
