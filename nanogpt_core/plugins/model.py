"""Base class of the plugins' classes: closing, ``repr``, and copies that hide keys and share what cannot be copied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict  # a dependency of the SDK

from nanogpt_core.errors import InvalidTypeError
from nanogpt_core.http.client import Closeable
from nanogpt_core.http.secrets import hide_secrets

if TYPE_CHECKING:
    from typing_extensions import Self


class PluginModel(Closeable, BaseModel):
    """A pydantic model of a framework that can be closed and copied."""

    # Pydantic's errors would show the whole input, and the key with it.
    model_config = ConfigDict(hide_input_in_errors=True)

    # Names of fields, by other names of the same option: the core's, and further ones of the framework. Both are
    # accepted.
    _field_names: ClassVar[Mapping[str, str]]

    def _shared_by_copies(self) -> Iterable[Any]:
        """Return the objects that deep copies share, such as HTTP clients and objects that may hold a lock."""
        return ()

    @classmethod
    def _fields_by_other_name(cls) -> dict[str, str]:
        """Return the names of fields, by their aliases and by other names of the same option."""
        aliases = {field.alias: name for name, field in cls.model_fields.items() if field.alias}
        return {**aliases, **cls._field_names}

    @classmethod
    def _option_names(cls) -> list[str]:
        """Return all names that the constructor takes."""
        return [*cls.model_fields, *cls._fields_by_other_name()]

    @classmethod
    def _with_subclass_defaults(cls, options: Mapping[str, Any], other_names: Mapping[str, str]) -> dict[str, Any]:
        """Return options by the names of their fields, with the defaults that a subclass has set for others.

        A subclass must declare no field under another name of an option: it would show its value and have no effect.
        """
        base: Any = next(one for one in cls.__mro__ if "_field_names" in vars(one))  # the framework's class
        for name, field in other_names.items():
            if name in cls.model_fields and name not in base.model_fields:
                raise InvalidTypeError(f"{name} is called {field} in a subclass.", remedy=f"Declare {field}.")
        defaults: dict[str, Any] = {}
        for name, inherited in base.model_fields.items():
            own = cls.model_fields[name]
            is_inherited = own.default_factory is inherited.default_factory and own.default == inherited.default
            # The environment is the default of some inherited fields: these are not asked for.
            if name not in options and not is_inherited and not own.is_required():
                defaults[name] = own.get_default(call_default_factory=True)
        return {**hide_secrets(defaults), **options}

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Do what the constructor does, with its checks: it makes the parts that send requests."""
        values = hide_secrets(values)
        return cls(**values)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the model, and the fields that differ from their defaults; without those that dumps leave out."""
        fields = type(self).model_fields
        for name, value in BaseModel.__repr_args__(self):  # LangChain's own leaves out a default model
            field = None if name == self._field_names.get("model", "model") else fields.get(name or "")
            if field is None or not (field.exclude or value == field.get_default(call_default_factory=True)):
                yield name, value

    def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # type: ignore[override]
        """Do what :meth:`model_copy` does; pydantic's older name for it."""
        update = hide_secrets(update or {})
        return self.model_copy(update=update, deep=deep)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo.update({id(one): one for one in self._shared_by_copies()})
        return super().__deepcopy__(memo)


class ConstructorSignature:
    """The ``__signature__`` of a plugin's class, for ``help()`` and notebooks.

    Pydantic's has the fields of all base classes, even those that are refused, and no other names of options.

    Args:
        model_type: Type of the model, which comes first, as text.
        load_options: Imports and returns the ``TypedDict`` of the other options.
        defaults: Defaults that differ from those of the fields.
    """

    def __init__(self, model_type: str, load_options: Callable[[], type], **defaults: Any) -> None:
        self._model_type = model_type
        self._load_options = load_options
        self._defaults = defaults

    def __get__(self, instance: object, cls: type[PluginModel]) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # a callable object has a signature of its own
        fields = cls._fields_by_other_name()
        from_environment = {fields.get(name, name) for name in ("api_key", "base_url")}

        def parameter(name: str, annotation: Any, kind: Any) -> inspect.Parameter:
            field = fields.get(name, name)
            info = cls.model_fields[field]
            default = None if field in from_environment or info.default_factory else info.default
            return inspect.Parameter(name, kind, default=self._defaults.get(name, default), annotation=annotation)

        _, first, *_ = inspect.signature(cls.__init__).parameters
        parameters = [parameter(first, self._model_type, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        for name, annotation in self._load_options().__annotations__.items():
            written = getattr(annotation, "__forward_arg__", annotation)
            parameters.append(parameter(name, written, inspect.Parameter.KEYWORD_ONLY))
        return inspect.Signature(parameters)
