# Every target installs its requirements. `make help` lists the targets.

VENV ?= .venv
# The Python that creates the venv: by default the first one that tools/find-python finds.
PYTHON ?=
# More arguments for the program that a target runs: make test ARGS="-k nats -x"
ARGS ?=
# Number of processes that run the tests. Tests often wait, so there are three more than processors. 0 runs them in one
# process, for a debugger.
WORKERS ?= $(shell expr 3 + $$(getconf _NPROCESSORS_ONLN))

run := $(VENV)/bin
compiled := $(if $(WSFLEET_NO_EXTENSIONS),,$(VENV)/.compiled)
pip := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input -q

.PHONY: help demo test check test-all simulate soak soak-policies mutants fuzz autobahn bench docs audit servers clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.library $(compiled) ## 1,000 connections to a local server with random faults, for 15 seconds
	@$(run)/wsfleet demo $(ARGS)

test: $(VENV)/.dev $(compiled) servers ## the whole test suite
	PYTHONASYNCIODEBUG=1 PYTHONDONTWRITEBYTECODE= $(run)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(VENV)/.dev ## formatting, lint, types, and the import rules between packages
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

simulate: $(VENV)/.dev $(compiled) ## thousands of simulated fleets with random faults, reproducible by their seeds
	@$(run)/python -m tools.simulate $(ARGS)

soak: $(VENV)/.dev $(VENV)/.bench $(compiled) ## ten minutes of 2,000 connections with random faults; writes a page with plots
	@$(run)/python -m tools.soak $(ARGS)

soak-policies: $(VENV)/.dev $(compiled) ## one minute at full speed for each overflow policy
	@$(run)/python -m tools.soak_policies $(ARGS)

mutants: $(VENV)/.dev $(compiled) ## mutation testing of the core: faults are planted one at a time, and the tests must find each
	@$(run)/python -m tools.mutants $(ARGS)

fuzz: $(VENV)/.fuzz $(compiled) ## three minutes of fuzzing: frames, the wire, the handshake
	@tools/install-headers $(run)/python
	@$(run)/python -m tools.fuzz $(ARGS)

autobahn: $(VENV)/.dev $(compiled) .venv-autobahn/.server ## the 517 cases of Autobahn|Testsuite; needs Python 2.7
	@$(run)/python -m tools.autobahn --server-python .venv-autobahn/server/bin/python $(ARGS)

bench: $(VENV)/.bench $(compiled) ## all benchmarks, compared with hand-written programs and other libraries; about 25 minutes
	@$(run)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev $(VENV)/.docs $(compiled) ## the documentation, in build/docs; every link and every code block is checked
	$(run)/python -m tools.check_docs
	$(run)/python -m sphinx -q -W --keep-going -n -b html docs build/docs
	$(run)/python -m tools.check_site build/docs

audit: .venv-audit/.made ## known vulnerabilities of the pinned versions; exits with 3 if the network is not available
	@$(run)/python tools/audit.py .venv-audit/bin/pip-audit

servers:
	@tools/install-servers

clean: ## remove the files that the other targets created
	@for venv in .venv .venv-*; do if [ -e $$venv/.made ] || [ -e $$venv/.library ]; then rm -rf $$venv; fi; done
	rm -rf build dist src/*.egg-info tests/support/servers/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '_*.so' -delete

# Only venvs that make created, which contain .made, may be deleted. The build tools are pinned like everything else, so
# the build must not download its own. The compiled parts are built after the installation, because pip would not show
# the warnings.
$(VENV)/.library: pyproject.toml constraints.txt
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.made ] && [ ! -e $@ ]; then \
	    echo "$(VENV) was not created by make: remove it, or choose another directory, for example make VENV=.venv-make" >&2; exit 1; \
	fi
	@python='$(PYTHON)'; python=$${python:-$$(tools/find-python)} && \
	    rm -rf $(VENV) && mkdir -p $(VENV) && touch $(VENV)/.made && \
	    echo "creating $(VENV), and installing wsfleet in it" && "$$python" -m venv $(VENV)
	@$(pip) install -c constraints.txt pip setuptools Cython
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[cli,fast]'
	@touch $@

$(VENV)/.dev: $(VENV)/.library
	@echo "installing the requirements of tests and checks"
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The compiled parts, next to their sources; without a compiler there is a warning, and the Python versions are used. Old
# files are deleted first, because they would be used if the new ones cannot be compiled.
$(VENV)/.compiled: $(VENV)/.library setup.py $(shell find src -name '_*.pyx')
	@tools/install-headers $(run)/python
	@echo "compiling"; suffix=$$($(run)/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') && \
	    rm -rf build && find src -name "_*$$suffix" -delete
	@$(run)/python setup.py -q build_ext --inplace
	@touch $@

# If atheris cannot be installed, the parts that need it are skipped.
$(VENV)/.fuzz: $(VENV)/.dev
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation --only-binary atheris -e '.[fuzz]' || \
	    echo "atheris could not be installed: make fuzz will skip some parts"
	@touch $@

$(VENV)/.docs: $(VENV)/.library
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.library
	@WSFLEET_NO_EXTENSIONS=1 $(pip) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@

# pip-audit is not one of the audited packages, so it has its own venv.
.venv-audit/.made: $(VENV)/.library
	@rm -rf $(@D) && $(run)/python -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --no-input -q install 'pip-audit>=2.9,<3'
	@touch $@

# Autobahn|Testsuite's server, in its own Python 2.7. It is created with the last virtualenv that supports 2.7, which
# runs on Python 3.
.venv-autobahn/.server: tools/autobahn/constraints.txt
	@python2=$$(tools/find-python2) && python='$(PYTHON)' && python=$${python:-$$(tools/find-python)} && \
	    rm -rf $(@D) && mkdir -p $(@D) && touch $(@D)/.made && echo "creating $(@D)" && "$$python" -m venv $(@D) && \
	    $(@D)/bin/python -m pip --disable-pip-version-check --no-input -q install -c $< virtualenv && \
	    $(@D)/bin/python -m virtualenv -q -p "$$python2" --app-data $(@D)/seeds --no-periodic-update $(@D)/server
	@$(@D)/server/bin/python -m pip --disable-pip-version-check --no-python-version-warning --no-input -q \
	    install -c $< autobahntestsuite
	@touch $@
