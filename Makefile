# make demo   everything for the demo: a virtual environment, the package built into it, the demo's pictures
# make test   the same for the tests
# make lint   formatting, style and types        make format   puts the first two right
# make package  builds a source distribution and from it a wheel in dist/, and checks what they hold
# make wheel-linux  the same, and makes the wheel one for other Linux machines (docs/linux_build.md)
# make wheel-macos  builds the wheels for macOS on Linux, and checks them (docs/macos_build.md); MACOS_ARGS='--python 3.12' one
# make develop  builds into .venv so that C++ changes rebuild only what they touch
# make clean  removes what the others made
#
# Needs Python 3.10 or newer with venv and headers, and a C++20 compiler. PYTHON=... and CXX=... name others.

PYTHON ?= python3
ifeq ($(origin CXX),default)
CXX := $(or $(shell command -v c++ || command -v g++ || command -v clang++),c++)
endif
export CXX

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
SOURCES := $(wildcard core/*.* cpu/*.* cpu/simd/*.* metal/*.* kernels/*.*) CMakeLists.txt pyproject.toml
PYTEST_ARGS ?= -n auto --dist worksteal
CPP := $(wildcard core/*.h core/*.cpp cpu/*.h cpu/*.cpp cpu/simd/*.h cpu/simd/*.cpp metal/*.h metal/*.cpp)

ifneq ($(filter-out clean,$(or $(MAKECMDGOALS),demo)),)
MISSING := $(shell sh tools/missing.sh '$(PYTHON)' '$(CXX)')
ifneq ($(MISSING),)
$(error $(MISSING))
endif
endif

.PHONY: demo test lint format package wheel-linux wheel-macos develop clean

demo: $(VENV)/.built
	$(VENV)/bin/mlx-conv3d demo --output demo-output

test: $(VENV)/.test
	$(VENV)/bin/pytest -rs $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(VENV)/bin/mypy
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

$(VENV)/bin/python:
	@echo 'making $(VENV)'
	@'$(PYTHON)' -m venv $(VENV)

# An editable install: only compiled code has to be installed again when it changes.
$(VENV)/.built: $(SOURCES) | $(VENV)/bin/python
	@echo 'building mlx_conv3d into $(VENV) (some minutes)'
	@$(PIP) install --editable '.[demo]'
	@touch $@

# The package is there already, so pip installs what its extras add and does not build it again.
$(VENV)/.test: $(VENV)/.built pyproject.toml
	@$(PIP) install 'mlx-conv3d[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.built pyproject.toml
	@$(PIP) install 'mlx-conv3d[lint,test]'
	@touch $@

$(VENV)/.wheel: $(VENV)/.built pyproject.toml
	@$(PIP) install 'mlx-conv3d[wheel]'
	@touch $@

package: $(VENV)/.lint
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist
	$(VENV)/bin/python tools/check_package.py dist

wheel-linux: package $(VENV)/.wheel
	$(VENV)/bin/python tools/linux/manylinux.py dist

wheel-macos: | $(VENV)/bin/python
	$(VENV)/bin/python tools/macos/build.py --output dist $(MACOS_ARGS)

define BUILD_REQUIREMENTS
import ast, re
print(*ast.literal_eval(re.search(r"^requires = (\[.*?\])$$", open("pyproject.toml").read(), re.M | re.S)[1]), sep="\n")
endef
export BUILD_REQUIREMENTS

develop: | $(VENV)/bin/python
	@$(VENV)/bin/python -c "$$BUILD_REQUIREMENTS" > $(VENV)/requirements.txt
	@$(PIP) install -r $(VENV)/requirements.txt cmake ninja
	@$(PIP) install --no-build-isolation --editable '.[lint,test]'
	@touch $(VENV)/.built $(VENV)/.test $(VENV)/.lint

clean:
	rm -rf $(VENV) build dist demo-output
