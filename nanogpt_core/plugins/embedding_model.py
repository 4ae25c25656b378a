"""Base class of the plugins' embedding classes: an ``Embedder`` behind the fields of a framework's class."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field  # a dependency of the frameworks

from nanogpt_core._runtime.validation import check_option_names, fixed_option_error, with_field_names
from nanogpt_core.embeddings.config import OPTION_ALIASES
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.embeddings.pipeline import Estimate
from nanogpt_core.http.secrets import Secret, SecretHeaders, hide_if_secret, hide_secrets
from nanogpt_core.observability.usage import Usage
from nanogpt_core.plugins.model import PluginModel

if TYPE_CHECKING:
    from typing_extensions import Self

EMBEDDER_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Embedder).parameters.items()}
"""Defaults of the options of :class:`nanogpt_core.Embedder`, by their names."""

_SHARED_BY_COPIES = ("http_client", "http_async_client", "cache", "limits", "progress", "on_request")


def option(name: str, **more: Any) -> Any:
    """Return a pydantic field with the default of an option of :class:`nanogpt_core.Embedder`."""
    return Field(default=EMBEDDER_DEFAULTS[name], **more)


def hidden_option(name: str) -> Any:
    """Return the same field, left out of dumps and of ``repr``."""
    return option(name, exclude=True, repr=False)


class EmbeddingModelBase(PluginModel):
    """An embedding class of a framework: the options of an :class:`nanogpt_core.Embedder` are fields.

    The fields here are left out of dumps by both classes. The options do not change after construction; changed copies
    have an embedder of their own.
    """

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())

    model_info: Any = hidden_option("model_info")
    cache: Any = hidden_option("cache")
    limits: Any = hidden_option("limits")
    progress: Any = hidden_option("progress")
    on_request: Any = hidden_option("on_request")
    default_headers: Any = hidden_option("default_headers")
    http_client: Any = hidden_option("http_client")
    http_async_client: Any = hidden_option("http_async_client")

    # Further fields that only copies can change, and further fields that deep copies share.
    _fixed_fields: ClassVar[tuple[str, ...]] = ()
    _shared_fields: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:
        _embedder: Embedder  # a private attribute of pydantic must be declared in the subclass

    def _set_options(self, options: Mapping[str, Any]) -> None:
        """Make the embedder, and set all fields, from options by any of their names."""
        self._check_names(options)
        fields = with_field_names(options, self._field_names)
        fields = self._with_subclass_defaults(fields, {**self._foreign_names(), **self._field_names})
        embedder = Embedder(**self._embedder_options(fields))
        resolved = {"model": embedder.model, "base_url": embedder.base_url, "api_key": self._as_key(embedder.api_key)}
        super().__init__(**{**fields, **with_field_names(resolved, self._field_names)})
        self._embedder = embedder

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        """Check that there is an option of each name."""
        own_first = sorted(cls._option_names(), key=EmbeddingModelBase.model_fields.__contains__)  # such as model
        check_option_names(names, own_first, cls._foreign_names())

    @classmethod
    def _foreign_names(cls) -> dict[str, str]:
        """Return the names of fields, by words of other embedding classes for the same option: hints in errors."""
        return {alias: cls._field_names.get(name, name) for alias, name in OPTION_ALIASES.items()}

    @classmethod
    def _embedder_options(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the embedder's options, by its own names, from options by the names of fields."""
        return {
            name: fields[field] for name in EMBEDDER_DEFAULTS if (field := cls._field_names.get(name, name)) in fields
        }

    @classmethod
    def _as_key(cls, key: Secret) -> Any:
        """Return the key as the class holds keys."""
        return key

    def __setattr__(self, name: str, value: Any) -> None:
        value = hide_if_secret(name, value)
        if name not in type(self).model_fields and name in OPTION_ALIASES:
            raise fixed_option_error(name, self._foreign_names()[name])
        if name in self._fixed_fields or name in EMBEDDER_DEFAULTS or name in self._field_names.values():
            raise fixed_option_error(name, name)
        if not name.startswith("_") and not hasattr(type(self), name):
            self._check_names([name])
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for the options and fields in ``update``.

        A copy with other options counts its usage and its budget from zero. Copies share clients and caches.

        Raises:
            ConfigurationError: An option is invalid. It is a ``ValueError``.
            InvalidTypeError: A name is unknown, or a value has the wrong type. It is a ``TypeError``.
        """
        update = hide_secrets(update or {})
        twin = super().model_copy(deep=deep)
        if update:
            kept = {name: getattr(twin, name) for name in twin.model_fields_set}
            # A row that is no option was looked up by its name, or passed as the model.
            if twin.model_info is None:
                kept[self._field_names.get("model", "model")] = twin._embedder.model_info
            private = dict(twin.__pydantic_private__ or {})
            twin._set_options({**kept, **with_field_names(update, self._field_names)})
            twin.__pydantic_private__ = {**private, "_embedder": twin._embedder}
            old, new = self._embedder, twin._embedder
            asked = [(one.model_info, one.base_url, one._config.dimensions) for one in (old, new)]
            if old.width is not None and asked[0] == asked[1]:
                new.check_width(old.width)  # as any other copy
        return twin

    def __copy__(self) -> Self:
        twin = super().__copy__()
        twin._embedder = copy.copy(self._embedder)
        return twin

    def _shared_by_copies(self) -> Iterable[Any]:
        return (getattr(self, name) for name in (*_SHARED_BY_COPIES, *self._shared_fields))

    def __getstate__(self) -> dict[Any, Any]:
        self._embedder.__getstate__()  # refuses clients, which cannot be pickled
        state: dict[Any, Any] = super().__getstate__()
        headers = self.default_headers and SecretHeaders(self.default_headers)
        return {**state, "__dict__": {**state["__dict__"], "default_headers": headers}}

    def close(self) -> None:
        """Close the object, as :meth:`nanogpt_core.Embedder.close` does: later calls raise, calls under way go on."""
        self._embedder.close()

    async def aclose(self) -> None:
        """Close the object, as :meth:`nanogpt_core.Embedder.aclose` does, with the event loop's connections."""
        await self._embedder.aclose()

    @property
    def usage(self) -> Usage:
        """Usage of this object so far: a snapshot."""
        return self._embedder.usage

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Estimate requests, tokens and cost in US dollars of embedding ``texts``; sends nothing.

        Raises:
            InvalidInputError: A text is empty, blank, too long or cannot be encoded. It is a ``ValueError``.
            InvalidTypeError: ``texts`` is not an iterable of strings. It is a ``TypeError``.
        """
        return self._embedder.estimate(texts)

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Call it after opening an existing store, for example with the ``d`` of a FAISS index.

        Raises:
            ConfigurationError: Store and model do not fit; the message names the remedy. It is a ``ValueError``.
        """
        self._embedder.check_width(stored_width)
