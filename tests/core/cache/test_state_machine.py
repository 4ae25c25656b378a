"""SQLiteCache against a dictionary: after any damage, a key gives an entry that was stored under it, or nothing."""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nanogpt_core.cache.admin import inspect_cache, verify_cache
from nanogpt_core.cache.base import CacheNamespace, encode_entry, entry_dimensions
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.errors import ConfigurationError

KEYS = CacheNamespace("https://example.invalid", "machine", None).keys("abcdefgh")
WIDTHS = [1, 300, 3072, 20_000]  # the last takes more than a page

some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=5, unique=True)
widths = st.sampled_from(WIDTHS)
places = st.floats(0, 1, exclude_max=True)
seeds = st.integers(0, 2**16)


class CacheMachine(RuleBasedStateMachine):
    """Keeps the entries that a lookup of each key may find; None stands for no entry."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cache-machine-"))
        self.path = self.folder / "c.db"
        self.caches = [SQLiteCache(self.path), SQLiteCache(self.path)]
        self.may = {key: {None} for key in KEYS}
        self.ever = {key: {None} for key in KEYS}
        self.damaged = False
        self.numbers = itertools.count(1)

    def teardown(self):
        for cache in self.caches:
            cache.close()
        shutil.rmtree(self.folder)

    # --- helpers ---

    def new_entries(self, keys, width):
        made = {key: encode_entry(key, np.full(width, next(self.numbers), np.float32)) for key in keys}
        for key, entry in made.items():
            self.ever[key].add(entry)
        return made

    def watched(self, work, *arguments):
        """Call a method that may find the file damaged. Only that warning may be given, and once."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = work(*arguments)
        said = [str(warning.message) for warning in caught]
        assert all("set aside" in words for words in said), said
        assert len(said) <= 1
        if said:
            assert self.damaged
            assert len(list(self.folder.glob("c.db.corrupt-*"))) >= 1
            # A new file. The other object may still write entries to it.
            self.damaged = False
            self.may = {key: {None} for key in KEYS}
        return result

    def found(self, cache, keys):
        entries = self.watched(cache.get_many, keys)
        return {key: entries[key] if entry_dimensions(key, entries.get(key)) is not None else None for key in keys}

    def write_in_another_process(self, at, entries):
        errors = self.folder / "errors"
        pairs = [(key.hex(), entry.hex()) for key, entry in entries.items()]
        self.writer.stdin.write(json.dumps([str(self.path), at, pairs, str(errors)]) + "\n")
        self.writer.stdin.flush()
        status, said = int(self.writer.stdout.readline()), errors.read_text()
        assert "Traceback" not in said, said
        return status, said

    def hit(self):
        """From now on anything that was ever put under a key may come back under it, or nothing."""
        self.damaged = True

    def allowed(self, key):
        return self.ever[key] | {None} if self.damaged else self.may[key]

    def files(self):
        return [file for file in (self.path, self.path.with_name("c.db-wal")) if file.exists() and file.stat().st_size]

    # --- rules ---

    @rule(keys=some_keys, width=widths, which=st.integers(0, 1))
    def put(self, keys, width, which):
        entries = self.new_entries(keys, width)
        self.watched(self.caches[which].put_many, entries)
        for key, entry in entries.items():
            self.may[key] = {entry}

    @rule(keys=some_keys, which=st.integers(0, 1))
    def get(self, keys, which):
        for key, entry in self.found(self.caches[which], keys).items():
            assert entry in self.allowed(key), f"{key.hex()} gives what is not its own"
            if not self.damaged:
                self.may[key] = {entry}

    @rule(keys=some_keys, width=widths, at=st.integers(0, 9))
    def get_killed(self, keys, width, at):
        """A process that puts entries dies by SIGKILL before its statement number ``at``, or has ended by then."""
        entries, was_damaged = self.new_entries(keys, width), self.damaged
        status, said = self.write_in_another_process(at, entries)
        assert status in (0, -signal.SIGKILL)
        if "set aside" in said:
            assert self.damaged
            self.damaged = False
            self.may = {key: {None} for key in KEYS}
        # SQLite's statements: BEGIN, one INSERT for each entry, COMMIT.
        if status == 0:
            assert at >= len(entries) + 2 or was_damaged  # a file begun anew has a connection of its own
            for key, entry in entries.items():
                self.may[key] = {entry}
        # Killed before COMMIT was carried out: earlier entries remain.

    @rule(keys=some_keys, width=widths)
    def evict(self, keys, width):
        """A third writer keeps to a limit that leaves room only for its own entries."""
        entries = self.new_entries(keys, width)
        size = sum(len(key) + len(entry) for key, entry in entries.items())
        cache = SQLiteCache(self.path, max_bytes=size + size // 4)  # it makes room down to nine tenths
        self.watched(cache.put_many, entries)
        cache.close()
        for key in KEYS:
            self.may[key] = {entries[key]} if key in entries else self.may[key] | {None}

    @rule(which=st.integers(0, 1))
    def reopen(self, which):
        self.caches[which].close()

    @rule()
    def forget(self):
        """All objects go and new ones come."""
        for cache in self.caches:
            cache.close()
        self.caches = [SQLiteCache(self.path), SQLiteCache(self.path)]

    @rule()
    def delete(self):
        """The file is deleted under open connections."""
        self.path.unlink(missing_ok=True)
        self.damaged = False
        self.may = {key: {None} for key in KEYS}

    @rule()
    def look(self):
        if self.path.exists():
            for look in (inspect_cache, verify_cache):
                try:
                    report = look(self.path)
                except ConfigurationError:
                    assert self.damaged or not self.path.stat().st_size
                else:
                    assert look is inspect_cache or report.clean or self.damaged

    @precondition(lambda self: self.files())
    @rule(which=st.integers(0, 1), place=places, bit=st.integers(0, 7))
    def flip_a_bit(self, which, place, bit):
        file = self.files()[which % len(self.files())]
        data = bytearray(file.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        _overwrite(file, data)
        self.hit()

    @precondition(lambda self: self.files())
    @rule(which=st.integers(0, 1), place=places, size=st.sampled_from([16, 4096, 32_768]), seed=seeds)
    def overwrite_a_part(self, which, place, size, seed):
        file = self.files()[which % len(self.files())]
        data = bytearray(file.read_bytes())
        # The mark that tells whose file it is stands in two places; who damages both makes it another program's.
        start = max(int(place * len(data)) // size * size, 100 if size < 4096 else 0)
        data[start : start + size] = random.Random(seed).randbytes(len(data[start : start + size]))
        _overwrite(file, data)
        self.hit()

    @precondition(lambda self: self.files())
    @rule(which=st.integers(0, 1), place=places)
    def truncate(self, which, place):
        file = self.files()[which % len(self.files())]
        with file.open("r+b") as opened:
            opened.truncate(int(place * file.stat().st_size))
        self.hit()

    @precondition(lambda self: self.path.exists() and not self.damaged)
    @rule(start=st.integers(0, 99), size=st.integers(1, 100), seed=seeds)
    def garble_the_header(self, start, size, seed):
        for cache in self.caches:
            cache.close()
        data = bytearray(self.path.read_bytes())
        end = min(start + size, 100)
        data[start:end] = random.Random(seed).randbytes(end - start)
        self.path.write_bytes(data)
        self.hit()

    @precondition(lambda self: self.damaged)
    @rule(keys=some_keys, width=widths)
    def work_goes_on(self, keys, width):
        """However damaged the file: after at most one warning, new entries can be stored and read."""
        entries = self.new_entries(keys, width)
        for _ in range(2):  # the damage may come up only when reading; then the file is new
            self.watched(self.caches[0].put_many, entries)
            found = self.found(self.caches[0], keys)
            if found == entries:
                break
        else:
            assert found == entries
        for key, entry in entries.items():
            self.may[key] = {entry}

    @invariant()
    def every_key_gives_its_own(self):
        for key, entry in self.found(self.caches[0], KEYS).items():
            assert entry in self.allowed(key), f"{key.hex()} gives what is not its own"


def _overwrite(file, data):
    with file.open("r+b") as opened:
        opened.write(data)


TestCacheMachine = CacheMachine.TestCase


@pytest.fixture(scope="module", autouse=True)
def _writer():
    """The process that forks a writer for each process that is killed: each start of an interpreter takes long."""
    command = [sys.executable, str(Path(__file__).with_name("dying.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        CacheMachine.writer = process
        yield


@pytest.mark.usefixtures("no_error_codes")  # with them, the reopened file counts as damaged at once
def test_log_that_another_process_removes_under_open_connections_is_survived():
    # Writing to the file here, as a user's program may read it, drops all locks of this process on it. The process that
    # writes next takes itself for the last one, and removes the log.
    machine = CacheMachine()
    machine.every_key_gives_its_own()
    machine.evict(KEYS[:5], 3072)
    machine.every_key_gives_its_own()
    machine.flip_a_bit(0, 0.0, 0)
    machine.every_key_gives_its_own()
    machine.get_killed(KEYS[:2], 1, 5)
    machine.every_key_gives_its_own()
    machine.work_goes_on(KEYS[:1], 1)
    machine.every_key_gives_its_own()
    machine.evict(KEYS[:1], 1)
    machine.teardown()
