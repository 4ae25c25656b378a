"""``EmbedTable``: embeds a column of Arrow tables, in Ray, Spark, Dask or plain pyarrow."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nanogpt_core._runtime.extras import missing_extra
from nanogpt_core._runtime.validation import check_attribute, check_number, check_option_names, fixed_option_error
from nanogpt_core.embeddings.config import OPTION_ALIASES, EmbedderOptions
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.embeddings.inputs import describe_positions
from nanogpt_core.errors import (
    ConfigurationError,
    InvalidInputError,
    InvalidTypeError,
    NanoGPTError,
    TextTooLongError,
)
from nanogpt_core.http.secrets import resolve_key
from nanogpt_core.models.catalog import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

_CLUSTER_REMEDY = (
    "Set NANOGPT_API_KEY in the environment of this process and of every worker before the cluster starts: for Ray "
    "before `ray start`, for Spark in spark-env.sh, for Dask before `dask worker`. EmbedTable itself carries no key."
)
_FIXED = {"column", "model", "output", "on_error", "reason", "width", "fixed_size"}
# The key, headers and functions would be written in clear into files of an engine, and connections cannot be moved.
_NOT_FOR_WORKERS = ("default_headers", "http_client", "http_async_client", "progress", "on_request")


class EmbedTable:
    """Appends a column of vectors to Arrow tables: one callable for Ray, Spark, Dask and pyarrow.

    It takes a ``pyarrow.Table``, a ``RecordBatch``, a ``pandas.DataFrame``, or an iterator of record batches, and
    returns the same kind. The new column is ``FixedSizeList<float32>[d]``, which survives Parquet; for an iterator of
    record batches, as Spark passes it, ``list<float32>``, since Spark has no lists of a fixed size. The object can be
    pickled and holds no key: each worker takes ``NANOGPT_API_KEY`` from its environment, and makes its
    :class:`nanogpt_core.Embedder` at first use.

    A row is complete or its table fails: an engine then runs the task again. Pass ``cache`` to pay for no text twice
    then, and ``limits=RedisLimits(...)`` for one rate and one budget over all workers.

    Args:
        column: Name of the column with the texts: strings, large strings, string views or a dictionary of them.
            Default: ``"text"``.
        model: As for :class:`nanogpt_core.Embedder`.
        output: Name of the new column. Default: ``"embedding"``.
        on_error: Treatment of a row that cannot be embedded because it is null, blank, too long or cannot be encoded:
            ``"raise"`` (default) raises before anything is sent for the table, ``"null"`` gives it a null vector, and
            the reason in the column ``reason``. Failures of the service always raise.
        reason: Name of the column with the reasons ``"null"``, ``"blank"`` and ``"too long"``, null for rows with a
            vector. Only with ``on_error="null"``. Default: ``"embedding_error"``.
        width: Dimensions of the vectors of a model that the catalog does not know. Default: the model's.
        fixed_size: Whether the new column has lists of a fixed size. Default: yes, except for an iterator of record
            batches.
        **options: Other options of :class:`nanogpt_core.Embedder`, except the key, headers, clients and ``progress``.

    Raises:
        ConfigurationError: An invalid option, unknown dimensions, or no key in the environment of this process. It is a
            ``ValueError``.
        InvalidTypeError: An option of the wrong type, or an unknown option. It is a ``TypeError``.
        ImportError: pyarrow is not installed; the extra ``arrow`` brings it.

    Example:
        >>> embed = EmbedTable("text", limits=RedisLimits("redis://10.0.0.5", "wikipedia"))
        >>> dataset.map_batches(embed, batch_format="pyarrow", batch_size=4096)  # Ray
        >>> frame.mapInArrow(embed, "id long, text string, embedding array<float>")  # Spark
        >>> frame.map_partitions(embed, meta=embed.meta(frame._meta))  # Dask
        >>> table = embed(table)  # pyarrow
    """

    def __init__(
        self,
        column: str = "text",
        *,
        model: str | ModelInfo = "text-embedding-3-small",
        output: str = "embedding",
        on_error: Literal["raise", "null"] = "raise",
        reason: str = "embedding_error",
        width: int | None = None,
        fixed_size: bool | None = None,
        **options: Unpack[EmbedderOptions],
    ) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise missing_extra("EmbedTable", "arrow", ModuleNotFoundError(name="pyarrow"))
        _check_names(column=column, output=output, reason=reason)
        if on_error not in ("raise", "null"):
            raise ConfigurationError(f'on_error must be "raise" or "null", not {on_error!r}.')
        if fixed_size is not None and not isinstance(fixed_size, bool):
            raise InvalidTypeError(f"fixed_size must be True, False or None, not {type(fixed_size).__name__}.")
        _check_options(options)
        self.column = column
        self.output = output
        self.on_error = on_error
        self.reason = reason
        self._fixed_size = fixed_size
        # Checked here, in the driver, and not in each worker. The workers need not know NANOGPT_BASE_URL.
        embedder = Embedder(model, **options)
        self._options: dict[str, Any] = {**options, "model": embedder.model_info, "base_url": embedder.base_url}
        if width is not None:
            check_number("width", width, 1)
            if embedder.width not in {None, width}:
                raise ConfigurationError(
                    f"The vectors of {embedder.model} have {embedder.width} dimensions, not width={width}.",
                    remedy="Leave width out, or pass dimensions if the model can reduce its vectors.",
                )
            embedder.check_width(width)
        if embedder.width is None:
            raise ConfigurationError(
                f"The dimensions of {embedder.model} are not known before the first reply.", remedy="Pass width=..."
            )
        self.width: int = embedder.width
        self._embedder: Embedder | None = None

    def __setattr__(self, name: str, value: object) -> None:
        # A subclass with a make_embedder() of its own may keep there what is not passed as an option.
        is_own = name in _NOT_FOR_WORKERS and type(self).make_embedder is not EmbedTable.make_embedder
        is_option = name in _FIXED or name in EmbedderOptions.__annotations__
        if "_embedder" in self.__dict__ and is_option and not is_own:
            raise fixed_option_error(name)
        if type(self) is EmbedTable:  # a subclass may have attributes of its own
            check_attribute(EmbedTable, name, [*_FIXED, *EmbedderOptions.__annotations__], OPTION_ALIASES)
        super().__setattr__(name, value)

    def make_embedder(self) -> Embedder:
        """Return a new embedder, for this process. A subclass may make another one, with headers for example.

        Raises:
            ConfigurationError: No key in the environment of this process.
        """
        _check_key()
        embedder = Embedder(**self._options)
        embedder.check_width(self.width)
        return embedder

    @property
    def embedder(self) -> Embedder:
        """The embedder of this process, made at first use; its ``usage`` counts this process only."""
        if self._embedder is None:
            self._embedder = self.make_embedder()
        return self._embedder

    def __call__(self, data: Any) -> Any:
        """Return ``data`` with the new column.

        Args:
            data: A ``pyarrow.Table`` or ``RecordBatch``, a ``pandas.DataFrame``, or an iterable of record batches.

        Raises:
            InvalidInputError: With ``on_error="raise"``, rows that cannot be embedded; see ``.positions``.
            InvalidTypeError: Data of another kind, or a column of another type.
            ConfigurationError: The column is missing, or the new one exists.
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        import pyarrow as pa

        if isinstance(data, (pa.Table, pa.RecordBatch)):
            return self._embed(data)
        kinds = {(base.__module__.partition(".")[0], base.__name__) for base in type(data).__mro__}
        if ("pandas", "DataFrame") in kinds:  # or a subclass of it, such as GeoPandas has
            return self._embed_frame(data)
        if isinstance(data, (dict, str, bytes)) or hasattr(data, "dtype") or not isinstance(data, Iterable):
            raise _wrong_type(data)
        if hasattr(data, "columns"):  # a frame of Polars for example
            raise _wrong_type(data, "Pass frame.to_arrow().")
        return self._embed_batches(data)

    def schema(self, schema: Any, *, fixed_size: bool | None = None) -> Any:
        """Return the ``pyarrow.Schema`` of the output for the schema of the input.

        Args:
            schema: The ``pyarrow.Schema`` of the input.
            fixed_size: Whether the new column has lists of a fixed size. Default: as this object makes them of a table.

        Raises:
            ConfigurationError: The column is missing, or the new one exists.
            InvalidTypeError: The column does not hold strings.
        """
        import pyarrow as pa

        self._check_schema(schema)
        if fixed_size is None:
            fixed_size = self._fixed_size is not False
        vectors = pa.list_(pa.float32(), self.width if fixed_size else -1)
        schema = schema.append(pa.field(self.output, vectors))
        return schema.append(pa.field(self.reason, pa.string())) if self.on_error == "null" else schema

    def meta(self, frame: Any) -> Any:
        """Return an empty ``pandas.DataFrame`` with the columns of the output for ``frame``: Dask's ``meta``."""
        return self._embed_frame(frame.iloc[:0])

    def _embed_frame(self, frame: Any) -> Any:
        import pandas as pd
        import pyarrow as pa

        self._check_columns(frame.columns)
        try:
            table = pa.Table.from_pandas(frame[[self.column]], preserve_index=False)
        except pa.ArrowTypeError as error:
            raise InvalidTypeError(f"Column {self.column!r} must hold strings: {error.args[0]}.") from error
        except ValueError as error:  # of pandas and Arrow: the same name twice, or a text that UTF-8 cannot encode
            raise ConfigurationError(f"Column {self.column!r} cannot be read: {error}.") from error
        new = self._embed(table)
        for name in self._new_columns:
            array = pd.arrays.ArrowExtensionArray(new.column(name).combine_chunks())
            frame = frame.assign(**{name: pd.Series(array, index=frame.index)})
        return frame

    def _embed_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow as pa

        for batch in batches:
            if not isinstance(batch, (pa.Table, pa.RecordBatch)):
                raise _wrong_type(batch)
            yield self._embed(batch, fixed_size=False)

    def _embed(self, table: Any, *, fixed_size: bool = True) -> Any:
        """Return a table or record batch with the new column; ``fixed_size`` holds if the option is not set."""
        import pyarrow as pa

        self._check_schema(table.schema)
        column = table.column(self.column)
        try:
            texts = column.to_pylist()
        except UnicodeDecodeError:  # programs can write bytes of any kind into a column of strings
            texts = [_text(value) for value in column]
        vectors, reasons = self._embed_texts(texts)
        mask = pa.array([one is not None for one in reasons], type=pa.bool_())
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        array = pa.FixedSizeListArray.from_arrays(flat, self.width, mask=mask)
        if not (fixed_size if self._fixed_size is None else self._fixed_size):
            array = array.cast(pa.list_(pa.float32()))
        table = table.append_column(pa.field(self.output, array.type), array)
        if self.on_error == "null":
            table = table.append_column(pa.field(self.reason, pa.string()), pa.array(reasons, type=pa.string()))
        return table

    def _embed_texts(self, texts: Sequence[str | None]) -> tuple[NDArray[np.float32], list[str | None]]:
        """Return ``(n, d)`` float32 vectors, zeros for rows that have none, and the reasons of these rows."""
        import numpy as np

        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        reasons: list[str | None] = [None if text is not None else "null" for text in texts]
        nulls = [row for row, reason in enumerate(reasons) if reason]
        if nulls and self.on_error == "raise":
            raise InvalidInputError(
                f"Column {self.column!r} is null at {describe_positions(nulls)}.",
                remedy='Filter these rows, or pass on_error="null".',
                positions=nulls,
            )
        left = [row for row, reason in enumerate(reasons) if reason is None]
        completed: dict[int, NDArray[np.float32]] = {}
        while left:
            try:
                vectors[left] = self.embedder.embed([texts[row] or "" for row in left], first=left)
                break
            except NanoGPTError as error:
                # Some of them may have been sent before the service refused another one.
                error.completed = completed = {**completed, **error.completed}
                if self.on_error == "raise" or not isinstance(error, InvalidInputError) or not error.positions:
                    raise
                for row, vector in completed.items():
                    vectors[row] = vector
                for row in error.positions:
                    reasons[row] = _reason(texts[row], error)
                done = {*completed, *error.positions}
                left = [row for row in left if row not in done]
        return vectors, reasons

    @property
    def _new_columns(self) -> list[str]:
        return [self.output, self.reason] if self.on_error == "null" else [self.output]

    def _check_columns(self, names: Any) -> None:
        if self.column not in names:
            raise ConfigurationError(
                f"There is no column {self.column!r}, only {', '.join(map(repr, names)) or 'no columns'}.",
                remedy="Pass its name as the first argument of EmbedTable.",
            )
        for name in self._new_columns:
            if name in names:
                raise ConfigurationError(
                    f"There is a column {name!r} already.", remedy="Pass another name as output or reason."
                )

    def _check_schema(self, schema: Any) -> None:
        import pyarrow as pa

        self._check_columns(schema.names)
        if schema.names.count(self.column) > 1:
            raise ConfigurationError(f"There are several columns {self.column!r}.", remedy="Rename or drop one.")
        kind = schema.field(self.column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        views = getattr(pa.types, "is_string_view", lambda _: False)
        # A column of nulls only has a type of its own.
        if not any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, views)):
            raise InvalidTypeError(f"Column {self.column!r} must hold strings, not {kind}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embedder": None}

    def __repr__(self) -> str:
        return f"EmbedTable({self.column!r}, model={self._options['model'].id!r}, output={self.output!r})"


def _check_names(**names: Any) -> None:
    for option, name in names.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"{option} must be a str, not {type(name).__name__}.")
        if not name:
            raise ConfigurationError(f"{option} is empty.")
    if len(set(names.values())) < len(names):
        raise ConfigurationError("column, output and reason must be different names.")


def _check_options(options: EmbedderOptions) -> None:
    known = [name for name in EmbedderOptions.__annotations__ if name not in (*_NOT_FOR_WORKERS, "api_key")]
    if options.get("api_key") is not None:
        raise ConfigurationError("EmbedTable takes no api_key.", remedy=_CLUSTER_REMEDY)
    for name in _NOT_FOR_WORKERS:
        if name in options:
            raise ConfigurationError(
                f"EmbedTable takes no {name}: it cannot be moved to other machines safely.",
                remedy="Override make_embedder() in a subclass.",
            )
    check_option_names(options, known, OPTION_ALIASES)
    _check_key()


def _check_key() -> None:
    try:
        resolve_key(None)
    except ConfigurationError as error:
        raise ConfigurationError(error.message, remedy=_CLUSTER_REMEDY) from error


def _reason(text: str | None, error: InvalidInputError) -> str:
    if isinstance(error, TextTooLongError):
        return "too long"
    return "blank" if not text or text.isspace() else error.message


def _text(value: Any) -> str | None:
    """Return the text of a scalar of Arrow; a byte that is not UTF-8 is a surrogate, which is refused like others."""
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError:
        text = getattr(value, "value", value).as_buffer().to_pybytes().decode(errors="surrogateescape")
    return text


def _wrong_type(data: object, remedy: str = 'In Ray, pass batch_format="pyarrow".') -> InvalidTypeError:
    return InvalidTypeError(
        f"EmbedTable takes Arrow tables, record batches and pandas frames, not {type(data).__name__}.", remedy=remedy
    )
