"""Measures how fast clients of the embeddings API are, side by side, in one run.

Start it with ``make bench``, or ``python -m benchmarks.speed.run`` in the project's folder. It makes an environment of
its own in ``.venv.bench`` (:mod:`~benchmarks.speed.environment`), runs each client of
:mod:`~benchmarks.speed.clients` in processes of its own (:mod:`~benchmarks.speed.child`) against a server that answers
with prepared bytes (:mod:`~benchmarks.speed.server`), and writes ``benchmarks/RESULTS.md`` and a plot.

Server and client are pinned to different cores. Each sample is a fresh process that warms up first; rounds go through
all clients in turn, and a machine that slows down slows them all. Every answer is checked: how many vectors, how
wide, each in its place, the first and the last number by number.

``--quick`` takes one sample of each, ``--only PATTERN`` runs the scenarios of :mod:`~benchmarks.speed.scenarios` whose
name holds PATTERN, ``--client NAME`` the clients whose name holds NAME; these print their results and write no file.
The samples of the last run are kept in ``.venv.bench/samples.json``.
"""
