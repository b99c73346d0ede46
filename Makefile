.PHONY: help install format check test slow

help:     ## list the targets
	@grep -E '^[a-z]+: .*##' Makefile | sed 's/:.*##/\t/'

install:  ## install for development
	python -m pip install -e ".[dev]"

format:   ## rewrite the code in the house style
	ruff check --fix . && ruff format .

check:    ## lint, format and types
	ruff check . && ruff format --check . && mypy

test:     ## the default tests, offline
	pytest -n logical

slow:     ## the tests that train or start many processes
	pytest -m slow
