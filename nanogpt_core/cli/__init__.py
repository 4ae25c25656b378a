"""The command line ``nanogpt``: a module for each command, with its name, over the public API.

``reading`` makes passages of files, for several commands. ``job`` and ``formats`` are the parts of ``embed``,
``comparison`` those of ``compare``, ``checks`` of ``doctor``, and ``nearest``, ``vector_index`` and ``answer`` of
``search``.
"""
