"""Measures the results of clients of the embeddings API, and of chat, for all that can go wrong.

Start it with ``make faults``, or ``python -m benchmarks.faults.run`` in the project's folder. It makes an environment
of its own in ``.venv.faults`` (:mod:`~benchmarks.faults.environment`), runs every fault of
:mod:`~benchmarks.faults.catalogue` against every client of :mod:`~benchmarks.faults.clients`, or of
:mod:`~benchmarks.faults.chat_clients`, each in a process of its own against a server of its own on loopback
(:mod:`~benchmarks.faults.server`), prints the outcomes as they come, and writes ``benchmarks/FAULTS.md``, which tells
how to read it. It ends with code 1 if one of this project's columns breaks a promise
(:mod:`~benchmarks.faults.promises`). ``--only PART`` runs the faults whose group or name holds PART, and writes
nothing.

Nothing leaves this machine but one look-up of a host name that cannot exist.
"""
