# The two commands of the README are `make demo` and `make test`. Each sets itself up: an environment in .venv, with
# the packages that pyproject.toml names. `make help` lists the rest.

PYTHON ?= python3
Q ?=
PORT ?= 8080
MODELS ?=
DATA :=
CHAT_PRICE :=
# An environment for each Python that PYTHON names: .venv, .venv.python3.10, ...
VENV := .venv$(addprefix .,$(filter-out python python3,$(notdir $(PYTHON))))
RUN := $(VENV)/bin/python
EXTRAS := all,dev
# uv would link the environment's files to its cache. NLTK, which LlamaIndex's SentenceSplitter reads its data with,
# refuses files that have more than one name.
export UV_LINK_MODE := copy
# Many containers set it. Without bytecode, each of the hundreds of processes that the tests start would compile the
# frameworks anew.
unexport PYTHONDONTWRITEBYTECODE

# Pytest's options for the whole suite: one worker more than cores, since many tests wait for a process or a server. Each
# further one costs more, to import the frameworks and the tests, than it gains.
# `make tests TESTS='-k cache'` overrides them.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
TESTS := -n $(shell expr $(CORES) + 1) --dist loadgroup

.PHONY: help demo web evaluate notebooks test lint types tests kill faults ray scale bench cli-bench compat pgvector \
  logfire versions pythons wheels readme prose docs docs-serve clean

help:
	@echo "make demo [Q='...']  run RAG over Python's own documentation, in LangChain and in LlamaIndex"
	@echo "make web [PORT=8080] show the same pipelines as a page in the browser, on this machine only"
	@echo "                     both: [DATA=folder] of the index, [CHAT_PRICE='0.15 0.6'] US dollars per million tokens"
	@echo "make test [PYTHON=python3.10]  run lint, types and tests"
	@echo "make evaluate [MODELS='...']  measure retrieval over 60 questions: a table, and evaluation/report.html"
	@echo "make notebooks       open the two tutorials of docs/notebooks in JupyterLab"
	@echo "make docs            build the documentation site in site/; broken links are errors"
	@echo "make docs-serve [PORT=8080]  serve the site on this machine, rebuilt after each change"
	@echo "make readme          rewrite the generated tables of the docs"
	@echo "make prose           check the language of docstrings, comments and Markdown"
	@echo "make versions        run the tests with the lowest and the highest versions that pyproject.toml admits"
	@echo "make pythons         run lint, types and tests with each Python from 3.10 on that is installed here"
	@echo "make wheels          test the wheel, installed with one extra at a time, against a sandbox elsewhere"
	@echo "make kill            run the tests with kills, processes and random examples at full length"
	@echo "make faults          compare our and other clients' results in everything that can go wrong"
	@echo "make scale           measure several processes with one Redis server, kills and outages: benchmarks/SCALE.md"
	@echo "make ray             test EmbedTable in actors of Ray Data, in an environment with Ray"
	@echo "make bench           measure speed beside other clients: benchmarks/RESULTS.md"
	@echo "make cli-bench       compare nanogpt embed with Embedder.stream: speed, memory, the first line of progress"
	@echo "make compat          check the plugins against three servers that others wrote; downloads 1.5 GB"
	@echo "make pgvector        check both frameworks' stores on a PostgreSQL of its own; downloads 150 MB"
	@echo "make logfire         test spans beside Logfire"
	@echo "make clean           remove the environments"

# The user's words go through the environment unchanged: neither make nor the shell interprets them.
unexport Q DATA PORT MODELS CHAT_PRICE
demo: export DEMO_QUESTION := $(value Q)
demo web: export DEMO_DATA := $(value DATA)
demo web: export DEMO_PRICE := $(value CHAT_PRICE)
web: export DEMO_PORT := $(value PORT)
evaluate: export EVALUATE_MODELS := $(value MODELS)
# Without quotes if several words are meant; after "set -f" a star in them is a star.
DEMO_OPTIONS = $${DEMO_DATA:+--data "$$DEMO_DATA"} $${DEMO_PRICE:+--chat-price $$DEMO_PRICE}

demo: $(VENV)/demo
	@echo "Two pipelines, LangChain and then LlamaIndex. At its first run, each embeds all documents into an index of its own."
	@echo
	@set -f; $(RUN) examples/demo/langchain_pipeline.py $(DEMO_OPTIONS) -- $${DEMO_QUESTION:+"$$DEMO_QUESTION"}
	@echo
	@set -f; $(RUN) examples/demo/llama_index_pipeline.py $(DEMO_OPTIONS) -- $${DEMO_QUESTION:+"$$DEMO_QUESTION"}

web: $(VENV)/web
	@set -f; $(RUN) examples/demo/web.py --port "$$DEMO_PORT" $(DEMO_OPTIONS)

evaluate: $(VENV)/evaluate
	@set -f; $(RUN) examples/demo/evaluate.py -- $$EVALUATE_MODELS

notebooks: $(VENV)/notebooks
	@$(RUN) -m jupyterlab docs/notebooks

# The site's theme warns at each build that it ends in May 2027: docs/adr/0080-documentation-site.md.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/dev
	$(RUN) -m mkdocs build --strict

docs-serve: export DOCS_PORT := $(value PORT)
docs-serve: $(VENV)/dev
	$(RUN) -m mkdocs serve --strict --dev-addr "127.0.0.1:$$DOCS_PORT"

readme: $(VENV)/dev
	$(RUN) .ci/readme.py

prose: $(VENV)/dev
	$(RUN) .ci/prose.py

# One of the tests checks the types: in a fresh clone that takes a minute on one core, beside the other tests.
test: lint tests

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) .ci/prose.py

types: $(VENV)/dev
	$(RUN) -m mypy

tests: $(VENV)/dev
	$(RUN) -m pytest $(TESTS)

kill: $(VENV)/dev
	LONG_TESTS=1 $(RUN) -m pytest tests/core/cache tests/core/chat/test_fuzz.py tests/core/cli/test_embed_kill.py \
		tests/core/embeddings/gathering/test_gathering_model.py tests/plugins/test_chat_fuzz.py

# Tables of the pages are made from the results.
faults: $(VENV)/dev
	$(RUN) -m benchmarks.faults.run
	$(RUN) .ci/readme.py

# In an environment of its own: Ray is large, and starts a dozen processes.
ray:
	@$(MAKE) --no-print-directory tests VENV=$(VENV).ray EXTRAS="$(EXTRAS),ray" TESTS=tests/core/scale/test_ray.py

scale: $(VENV)/dev
	$(RUN) -m benchmarks.scale.run
	$(RUN) .ci/readme.py

cli-bench: $(VENV)/dev
	$(RUN) -m benchmarks.cli.run

bench: $(VENV)/bin/uv
	$(RUN) -m benchmarks.speed.run
	@$(MAKE) --no-print-directory readme

compat: $(VENV)/dev
	$(RUN) compat/check.py

pgvector: $(VENV)/dev
	$(RUN) compat/postgres.py

# In a folder of its own: its plugins of pydantic and pytest would slow down all other tests.
logfire: $(VENV)/dev
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --target $(VENV).logfire logfire
	PYTHONPATH=$(VENV).logfire $(RUN) -m pytest tests/plugins/test_tracing.py -k logfire

versions: $(VENV)/dev
	$(RUN) .ci/versions.py

pythons: $(VENV)/bin/python
	$(RUN) .ci/pythons.py

wheels: $(VENV)/dev
	$(RUN) .ci/wheels.py

# A Python without venv (as Debian's can be) still has pip, and so virtualenv. A pyenv shim that is not selected runs
# only with PYENV_VERSION.
$(VENV)/bin/python:
	@$(PYTHON) -c '' 2>/dev/null || export PYENV_VERSION=$(patsubst python%,%,$(notdir $(PYTHON))); \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON=...")' && \
	{ $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
	  $(PYTHON) -m pip install --quiet --target $(VENV).bootstrap virtualenv && \
	  PYTHONPATH=$(VENV).bootstrap $(PYTHON) -m virtualenv --quiet $(VENV); }; }

# uv installs in seconds; pip takes a minute.
$(VENV)/bin/uv: $(VENV)/bin/python
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/demo: $(VENV)/bin/uv pyproject.toml
	@echo "Setting up $(VENV) ..."
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --editable ".[all,demo]"
	@touch $@

$(VENV)/web: $(VENV)/bin/uv pyproject.toml
	@echo "Setting up $(VENV) ..."
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --editable ".[all,web]"
	@touch $@ $(VENV)/demo

$(VENV)/evaluate: $(VENV)/bin/uv pyproject.toml
	@echo "Setting up $(VENV) ..."
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --editable ".[all,compare]"
	@touch $@

$(VENV)/notebooks: $(VENV)/bin/uv pyproject.toml
	@echo "Setting up $(VENV) ..."
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --editable ".[all,notebooks]"
	@touch $@

# Compiled here, on all cores: the workers of the tests import them at the same time, and each would compile them.
COMPILED := hypothesis langchain_core langchain_openai langgraph langsmith llama_index openai pydantic sqlalchemy
$(VENV)/dev: $(VENV)/bin/uv pyproject.toml
	@echo "Setting up $(VENV) ..."
	@$(VENV)/bin/uv pip install --quiet --python $(RUN) --editable ".[$(EXTRAS)]"
	@cd $(VENV)/lib/python*/site-packages && "$(CURDIR)/$(RUN)" -m compileall -qq -j 0 $(COMPILED) || true
	@touch $@ $(VENV)/demo $(VENV)/web $(VENV)/evaluate

clean:
	rm -rf $(VENV) $(VENV).* .nanogpt-demo build dist
