"""``EmbedTable``: columns of Arrow tables, record batches and pandas frames, without holes and without a key."""

import pickle

import numpy as np
import pytest

from nanogpt_core import (
    AuthenticationError,
    ConfigurationError,
    Embedder,
    EmbedTable,
    InvalidInputError,
    InvalidTypeError,
    ServerError,
    TextTooLongError,
)

pa = pytest.importorskip("pyarrow", reason="the arrow extra is not installed")

TEXTS = ["one", "two", "one", "three"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch, sandbox):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)


@pytest.fixture
def expected(options):
    return Embedder(**options).embed(TEXTS)


def vectors_of(column):
    return np.array(column.to_pylist(), dtype=np.float32)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_table_gets_a_column_of_fixed_size_lists(kind, expected):
    table = pa.table({"id": [1, 2, 3, 4], "text": pa.array(TEXTS).cast(kind)})
    result = EmbedTable("text")(table)
    assert result.schema == EmbedTable("text").schema(table.schema)
    assert result.schema.field("embedding").type == pa.list_(pa.float32(), 1536)
    assert result.column("id").to_pylist() == [1, 2, 3, 4]
    assert np.array_equal(vectors_of(result.column("embedding")), expected)


def test_record_batch_stays_a_record_batch(expected):
    batch = pa.record_batch({"text": TEXTS})
    result = EmbedTable("text")(batch)
    assert isinstance(result, pa.RecordBatch)
    assert np.array_equal(vectors_of(result.column("embedding")), expected)


def test_iterator_of_record_batches_gives_plain_lists_one_batch_at_a_time(expected, sandbox):
    batches = iter(pa.record_batch({"text": [text]}) for text in TEXTS)
    results = EmbedTable("text")(batches)
    first = next(results)
    assert len(sandbox.requests) == 2  # with that of the fixture
    assert first.schema.field("embedding").type == pa.list_(pa.float32())
    vectors = [vectors_of(batch.column("embedding")) for batch in (first, *results)]
    assert np.array_equal(np.concatenate(vectors), expected)


@pytest.mark.parametrize(
    ("fixed_size", "iterator", "is_fixed"), [(True, True, True), (False, False, False), (None, False, True)]
)
def test_size_of_the_lists_can_be_chosen(fixed_size, iterator, is_fixed):
    batch = pa.record_batch({"text": ["one"]})
    embed = EmbedTable("text", fixed_size=fixed_size)
    result = next(embed(iter([batch]))) if iterator else embed(batch)
    assert pa.types.is_fixed_size_list(result.schema.field("embedding").type) == is_fixed


def test_pandas_frame_keeps_its_index_and_meta_has_the_same_types(expected):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": TEXTS, "id": [1, 2, 3, 4]}, index=[7, 5, 3, 1])
    embed = EmbedTable("text", on_error="null")
    result, meta = embed(frame), embed.meta(frame)
    assert list(result.index) == [7, 5, 3, 1]
    assert len(meta) == 0
    assert dict(result.dtypes) == dict(meta.dtypes)
    assert np.array_equal(np.stack(list(result["embedding"])), expected)
    assert "embedding" not in frame.columns


def test_subclass_of_a_pandas_frame_is_a_frame(expected):
    class Frame(pytest.importorskip("pandas").DataFrame):
        pass

    result = EmbedTable("text")(Frame({"text": TEXTS}))
    assert np.array_equal(np.stack(list(result["embedding"])), expected)


def test_lists_of_any_length_are_wanted_for_tables_frames_and_the_schema():
    pd = pytest.importorskip("pandas")
    embed = EmbedTable("text", fixed_size=False)
    table, kind = pa.table({"text": TEXTS}), pa.list_(pa.float32())
    assert embed(table).schema.field("embedding").type == kind
    assert embed(table).schema == embed.schema(table.schema)
    for frame in (embed(pd.DataFrame({"text": TEXTS})), embed.meta(pd.DataFrame({"text": TEXTS}))):
        assert frame.dtypes["embedding"].pyarrow_dtype == kind


def test_empty_table_has_the_columns_and_sends_nothing(sandbox):
    table = pa.table({"text": pa.array([], type=pa.string())})
    assert EmbedTable("text")(table).schema == EmbedTable("text").schema(table.schema)
    assert sandbox.requests == []


def test_survives_parquet(tmp_path, expected):
    import pyarrow.parquet as pq

    pq.write_table(EmbedTable("text")(pa.table({"text": TEXTS})), tmp_path / "vectors.parquet")
    again = pq.read_table(tmp_path / "vectors.parquet")
    assert again.schema.field("embedding").type == pa.list_(pa.float32(), 1536)
    assert np.array_equal(vectors_of(again.column("embedding")), expected)


# --- Rows that cannot be embedded


def test_null_rows_get_null_vectors_and_a_reason(expected):
    texts = [None, "one", " ", "two", "", "one", "word " * 9000, "three", None]
    result = EmbedTable("text", on_error="null")(pa.table({"text": texts}))
    assert result.column("embedding_error").to_pylist() == [
        *("null", None, "blank", None, "blank"),
        *(None, "too long", None, "null"),
    ]
    vectors = result.column("embedding").to_pylist()
    assert [row for row, vector in enumerate(vectors) if vector is None] == [0, 2, 4, 6, 8]
    assert np.array_equal(np.array([vector for vector in vectors if vector], dtype=np.float32), expected)


@pytest.mark.parametrize("texts", [[None, None], [" ", None]], ids=str)
def test_table_without_any_text_sends_nothing(texts, sandbox):
    result = EmbedTable("text", on_error="null")(pa.table({"text": texts}))
    assert result.column("embedding").null_count == 2
    assert result.column("embedding_error").null_count == 0
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("texts", "error", "positions"),
    [
        (["one", None, "two", None], InvalidInputError, (1, 3)),
        (["one", " "], InvalidInputError, (1,)),
        (["one", "word " * 9000], TextTooLongError, (1,)),
    ],
    ids=["null", "blank", "too long"],
)
def test_bad_row_raises_with_its_position_before_anything_is_sent(texts, error, positions, sandbox):
    with pytest.raises(error) as caught:
        EmbedTable("text")(pa.table({"text": texts}))
    assert caught.value.positions == positions
    assert sandbox.requests == []


def test_texts_that_the_service_refuses_get_a_reason_and_no_text_is_paid_twice(serve, faults, monkeypatch):
    sent = []

    def answer(seen):
        texts = seen.json["input"]
        if any(text.startswith("huge") for text in texts):
            return faults.response({"error": {"message": "maximum context length exceeded"}}, status=400)
        sent.extend(texts)
        return faults.good(seen)

    server = serve(answer)
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    embed = EmbedTable("text", model="lab/unlisted", width=faults.WIDTH, on_error="null", batch_size=1)
    result = embed(pa.table({"text": ["one", "huge a", "two", "huge b", "three"]}))
    assert result.column("embedding_error").to_pylist() == [None, "too long", None, "too long", None]
    assert [vector is None for vector in result.column("embedding").to_pylist()] == [False, True, False, True, False]
    assert sorted(sent) == ["one", "three", "two"]


def test_error_of_the_service_gives_rows_of_the_table(serve, faults, monkeypatch):
    def answer(seen):
        if seen.texts[0].startswith("huge"):
            return faults.response({"error": {"message": "maximum context length exceeded"}}, status=400)
        return faults.response("", status=401) if seen.texts == ["refused"] else faults.good(seen)

    server = serve(answer)
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    embed = EmbedTable(
        "text", model="lab/unlisted", width=faults.WIDTH, on_error="null", batch_size=1, max_concurrency=1
    )
    with pytest.raises(AuthenticationError) as caught:
        embed(pa.table({"text": [None, "one", " ", "huge", "two", "refused", "three"]}))
    assert caught.value.failed_positions == (5, 6)
    assert sorted(caught.value.completed) == [1, 4]
    for row, text in ((1, "one"), (4, "two")):
        assert np.array_equal(caught.value.completed[row], faults.vector_of(text))


def test_text_that_is_not_utf_8_gets_a_reason_or_raises_with_its_position():
    values = pa.array([b"one", b"\xff", None], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    for each in (column, column.dictionary_encode()):
        found = EmbedTable(on_error="null")(pa.table({"text": each}))
        assert [vector is None for vector in found["embedding"].to_pylist()] == [False, True, True]
        assert "surrogate" in found["embedding_error"].to_pylist()[1]
        with pytest.raises(InvalidInputError) as refused:
            EmbedTable()(pa.table({"text": each[:2]}))
        assert refused.value.positions == (1,)


def test_failure_of_the_service_is_never_a_null(sandbox_with, monkeypatch):
    from nanogpt_core.sandbox import Fault

    sandbox = sandbox_with(faults=[Fault(status=500)])
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    with pytest.raises(ServerError):
        EmbedTable("text", on_error="null", max_retries=0)(pa.table({"text": ["one"]}))


# --- Workers


WORKER = """
import pickle
from pathlib import Path
import pyarrow as pa
embed = pickle.loads(Path("embed.pickle").read_bytes())
table = embed(pa.table({"text": ["one", "two"]}))
print(table.column("embedding").type.list_size, embed.embedder.usage.requests)
"""


@pytest.mark.xdist_group("processes")
def test_worker_takes_the_key_from_its_environment_and_the_url_from_the_pickle(sandbox, warm, monkeypatch, tmp_path):
    embed = EmbedTable("text", dimensions=64)
    embed(pa.table({"text": ["one"]}))
    pickled = pickle.dumps(embed)
    assert sandbox.api_key.encode() not in pickled
    (tmp_path / "embed.pickle").write_bytes(pickled)
    monkeypatch.delenv("NANOGPT_API_KEY")
    monkeypatch.delenv("NANOGPT_BASE_URL")
    _, printed, _ = warm.run(WORKER, tmp_path, environment={"NANOGPT_API_KEY": sandbox.api_key})
    assert printed == "64 1\n"
    _, _, error = warm.run(WORKER, tmp_path)
    assert "No API key" in error
    assert "in the environment of this process and of every worker" in error


def test_missing_key_is_an_error_in_the_driver_with_the_remedy_for_a_cluster(monkeypatch):
    monkeypatch.delenv("NANOGPT_API_KEY")
    with pytest.raises(ConfigurationError, match="every worker before the cluster starts"):
        EmbedTable("text")


def test_key_as_an_option_is_refused_without_showing_it():
    with pytest.raises(ConfigurationError, match="takes no api_key") as caught:
        EmbedTable("text", api_key="sk-secret")
    assert "sk-secret" not in str(caught.value)


def test_embedder_is_made_at_first_use_only():
    embed = EmbedTable("text")
    assert embed.embedder is embed.embedder
    assert pickle.loads(pickle.dumps(embed)).embedder is not embed.embedder


# --- Options and columns


@pytest.mark.parametrize("option", ["column", "model", "output", "on_error", "width", "dimensions", "limits"])
def test_option_cannot_be_changed_later(option):
    embed = EmbedTable("text")
    for one in (embed, pickle.loads(pickle.dumps(embed))):
        with pytest.raises(ConfigurationError, match=f"{option} cannot be changed"):
            setattr(one, option, "other")


def test_subclass_may_have_attributes_of_its_own():
    class Table(EmbedTable):
        def __init__(self):
            self.before = 1
            super().__init__("text")
            self.after = 2
            self.default_headers = {"x-team": "bees"}  # which is no option here

        def make_embedder(self):
            return Embedder(default_headers=self.default_headers)

    assert (Table().before, Table().after, Table().default_headers) == (1, 2, {"x-team": "bees"})
    with pytest.raises(ConfigurationError, match="cannot be changed"):
        EmbedTable("text").default_headers = {}


def test_unknown_attribute_is_refused_with_the_name_that_was_meant():
    with pytest.raises(AttributeError, match=r"^EmbedTable has no attribute 'on_eror'\. Did you mean 'on_error'\?$"):
        EmbedTable("text").on_eror = "null"
    with pytest.raises(AttributeError, match=r"^EmbedTable has no attribute 'api_base'\. Did you mean 'base_url'\?$"):
        EmbedTable("text").api_base = "https://example.org"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_error": "skip"}, ConfigurationError, "on_error must be"),
        ({"on_error": []}, ConfigurationError, "on_error must be"),
        ({"output": "text"}, ConfigurationError, "different names"),
        ({"column": ""}, ConfigurationError, "column is empty"),
        ({"output": 7}, InvalidTypeError, "output must be a str"),
        ({"fixed_size": "no"}, InvalidTypeError, "fixed_size must be"),
        ({"default_headers": {"X-Secret": "1"}}, ConfigurationError, "takes no default_headers"),
        ({"progress": print}, ConfigurationError, "takes no progress"),
        ({"batchsize": 7}, InvalidTypeError, "batch_size"),
        ({"max_retries": -1}, ConfigurationError, "max_retries"),
        ({"model": "lab/unlisted"}, ConfigurationError, "Pass width"),
        ({"width": 7}, ConfigurationError, "have 1536 dimensions, not width=7"),
        ({"width": 0}, ConfigurationError, "^width must be at least 1"),
    ],
    ids=str,
)
def test_invalid_option_is_refused_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        EmbedTable(**options)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"text": ["one"]}, InvalidTypeError, 'batch_format="pyarrow"'),
        (7, InvalidTypeError, "not int"),
        ("text", InvalidTypeError, "not str"),
        (["text"], InvalidTypeError, "not str"),
    ],
    ids=["dict", "number", "text", "list"],
)
def test_data_that_cannot_be_embedded_is_refused(data, error, message, sandbox):
    with pytest.raises(error, match=message):
        list(EmbedTable("text")(data))
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("columns", "names", "error", "message"),
    [
        ([["one"]], ["other"], ConfigurationError, "no column 'text', only 'other'"),
        ([[1]], ["text"], InvalidTypeError, "must hold strings, not int64"),
        ([["one"], [1]], ["text", "embedding"], ConfigurationError, "a column 'embedding' already"),
        ([["a"], ["b"]], ["text", "text"], ConfigurationError, "several columns 'text'"),
    ],
    ids=["missing", "numbers", "exists", "twice"],
)
def test_table_that_cannot_be_embedded_is_refused(columns, names, error, message, sandbox):
    with pytest.raises(error, match=message):
        EmbedTable("text")(pa.table(columns, names))
    assert sandbox.requests == []


def test_frame_that_cannot_be_embedded_is_refused(sandbox):
    pd = pytest.importorskip("pandas")
    for data, error, message in (
        (pd.Series(["text"]), InvalidTypeError, "not Series"),
        (pd.DataFrame({"text": ["one", 1]}), InvalidTypeError, "must hold strings: Expected bytes, got a 'int'"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), ConfigurationError, "Duplicate column names"),
        (pd.DataFrame({"other": ["one"]}), ConfigurationError, "no column 'text', only 'other'"),
        (pd.DataFrame({"text": ["one"], "embedding": [1]}), ConfigurationError, "a column 'embedding' already"),
    ):
        with pytest.raises(error, match=message):
            EmbedTable("text")(data)
    assert sandbox.requests == []


def test_frame_of_another_library_is_refused_with_the_call_that_makes_a_table_of_it():
    class Frame(list):  # Polars itself starts threads, and other tests fork
        columns = ("text",)

    with pytest.raises(InvalidTypeError, match=r"frame\.to_arrow"):
        EmbedTable("text")(Frame())
