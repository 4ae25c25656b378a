"""Base class of the plugins' chat classes: options that are changed later take effect or are refused, and closing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model  # a dependency of the SDK
from pydantic_core import PydanticUndefined

from nanogpt_core._runtime.validation import (
    check_bool,
    check_http_client,
    check_model_name,
    fixed_option_error,
    with_field_names,
)
from nanogpt_core.chat.options import EXAMPLE_MODEL, check_ranges, check_request_options, unknown_option_error
from nanogpt_core.chat.session import ChatSession, SessionOptions
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.secrets import hide_if_secret, hide_secrets
from nanogpt_core.plugins.model import PluginModel

if TYPE_CHECKING:
    from typing_extensions import Self

_SESSION_OPTIONS = tuple(SessionOptions.__annotations__)


class ChatModelBase(PluginModel):
    """Base class of a framework's chat class, with options that can be changed, and with :meth:`close`.

    Subclasses set ``_session`` when they are made: before that, their base classes may set any field.
    """

    requests_per_second: float | None = Field(default=None, description="Maximum number of attempts in a second.")
    limits: Any = Field(default=None, exclude=True, repr=False)
    on_request: Any = Field(default=None, exclude=True, repr=False)
    default_headers: Any = Field(default=None, exclude=True, repr=False)
    send_reasoning: bool = Field(default=True, description="Whether reasoning and signatures are sent back.")
    allow_insecure_http: bool = Field(default=False, description="Whether plain HTTP to another machine is allowed.")

    _http_client_fields: ClassVar[tuple[str, str]]
    # The field that the constructor fills from the service's list of models, if it is "live".
    _live_field: ClassVar[str]
    # The field for further options of the SDK's requests.
    _request_options_field: ClassVar[str]
    # The argument for fields of a request that the SDK does not know, with {} for them.
    _extra_body_hint: ClassVar[str]

    if TYPE_CHECKING:
        _session: ChatSession  # a private attribute of pydantic must be declared in the subclass

    def close(self) -> None:
        """Close the object: later calls raise; calls under way, and streams that have begun, go on to their end.

        Closes the connections of this process that no other object uses, and never an HTTP client that was passed.
        Connections of async calls stay open until their event loop shuts down: use :meth:`aclose` for these. Closing
        twice is allowed. Copies are objects of their own and stay open.
        """
        self._session.close()

    async def aclose(self) -> None:
        """Close the object as :meth:`close` does, and the running event loop's connections without other users."""
        await self._session.aclose()

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        """Check that there is a field of each name."""
        for name in names:
            if name not in cls.model_fields:
                raise unknown_option_error(name, cls._option_names(), extra_body_hint=cls._extra_body_hint)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> None:
        """Check the values of some options, by the names of their fields, and convert them; in place."""
        field = cls._request_options_field
        more = options.get(field, {})
        if more is None:
            options[field] = more = {}
        if not isinstance(more, Mapping):
            raise InvalidTypeError(f"{field} must be a mapping, not {type(more).__name__}.")
        check_request_options(more, extra_body_hint=cls._extra_body_hint)
        for name in ("messages", "stream"):
            if name in more:
                raise InvalidTypeError(f"{name} must not be in {field}: a call says it.")
        check_ranges(options)
        for name, kind in zip(cls._http_client_fields, ("Client", "AsyncClient"), strict=True):
            check_http_client(name, options.get(name), kind)
        if options.get("send_reasoning") is not None:
            check_bool("send_reasoning", options["send_reasoning"])
        model = cls._field_names.get("model", "model")
        if model in options:
            options[model] = check_model_name(options[model], EXAMPLE_MODEL)

    def _set_fields(self, fields: Mapping[str, Any]) -> None:
        """Call the framework's constructor.

        Raises:
            ConfigurationError: A value is invalid.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _invalid_option_error(error) from None

    def _set_session_fields(self) -> None:
        """Set the fields and the SDK's clients that follow from the session, after another one was set."""

    def _update_dependents(self, changes: Mapping[str, Any]) -> None:  # noqa: ARG002 - subclasses need it
        """Set fields that depend on others, of which ``changes`` have changed, and drop cached properties.

        LangChain's dump of a model is one, and a part of the keys of its caches.
        """
        for name in self.__dict__.keys() - type(self).model_fields:
            self.__dict__.pop(name, None)

    def __copy__(self) -> Self:
        twin = super().__copy__()
        twin._session = copy.copy(self._session)
        twin._set_session_fields()
        return twin

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        twin = super().__deepcopy__(memo)
        twin._set_session_fields()
        return twin

    def __getstate__(self) -> dict[Any, Any]:
        if any(getattr(self, name) is not None for name in self._http_client_fields):
            raise InvalidTypeError(
                f"An object with {' or '.join(self._http_client_fields)} cannot be pickled.",
                remedy="Connections do not travel; make it anew where it is needed.",
            )
        state: dict[Any, Any] = super().__getstate__()
        return state

    @classmethod
    def _read_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the constructor by the names of their fields, and the defaults of a subclass."""
        names = cls._fields_by_other_name()
        # model_name is the name in other chat classes.
        return cls._with_subclass_defaults(_by_field_names(given, names), {"model_name": "model", **names})

    @classmethod
    def _connection_fields(cls) -> set[str]:
        """Return the names of the fields that only copies can change."""
        return {*(cls._field_names.get(name, name) for name in _SESSION_OPTIONS), *cls._http_client_fields}

    @classmethod
    def _make_session(cls, options: Mapping[str, Any]) -> ChatSession:
        """Return a session for options by the names of their fields; None stands for the default of an option."""
        names = {name: cls._field_names.get(name, name) for name in _SESSION_OPTIONS}
        given = {name: options[field] for name, field in names.items() if options.get(field) is not None}
        for name in ("timeout", "max_retries"):  # those of which a class has a default of its own
            given.setdefault(name, cls._default_of(names[name]))
        endpoint = Endpoint.resolve(
            api_key=given.pop("api_key", None),
            base_url=given.pop("base_url", None),
            timeout=given.pop("timeout"),
            headers=given.pop("default_headers", None),
            allow_insecure_http=given.pop("allow_insecure_http", False),
        )
        return ChatSession(endpoint, **given)

    @classmethod
    def _default_of(cls, name: str) -> Any:
        """Return the default of a field: that of the first base class that has another one than None."""
        fields = (base.model_fields[name] for base in cls.__mro__ if issubclass(base, ChatModelBase))
        defaults = (field.get_default(call_default_factory=True) for field in fields)
        return next(one for one in defaults if one is not None and one is not PydanticUndefined)

    @classmethod
    def _check_changes(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        options = _by_field_names(changes, cls._fields_by_other_name())
        cls._check_names(options)
        if options.get(cls._live_field) == "live":
            raise ConfigurationError(
                f'{cls._live_field}="live" asks the service at construction only.', remedy="Create a new object."
            )
        cls._check_options(options)
        kept = cls._connection_fields()  # the session checks these
        return {name: value if name in kept else _validate_field(cls, name, value) for name, value in options.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        value = hide_if_secret(name, value)
        if not name.startswith("_") and hasattr(self, "_session"):
            given, name = name, self._fields_by_other_name().get(name, name)
            if name in self._connection_fields():
                raise fixed_option_error(given, given)
            value = self._check_changes({name: value})[name]
            super().__setattr__(name, value)
            self._update_dependents({name: value})
        else:
            super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; options in ``update``, by any of their names, take effect.

        Raises:
            ConfigurationError: An option is invalid.
            InvalidTypeError: An option is unknown, or of the wrong type.
        """
        update = hide_secrets(update or {})
        changes = self._check_changes(update)
        base = copy.deepcopy(self) if deep else self  # pydantic would copy the clients too if there are changes
        twin = super(ChatModelBase, base).model_copy(update=changes)
        if self._connection_fields() & changes.keys():
            # The session knows if a pickle has left the key out.
            known_key = {self._field_names.get("api_key", "api_key"): self._session.endpoint.key}
            twin._session = self._make_session({**twin.__dict__, **known_key, **changes})
            twin._set_session_fields()
        twin._update_dependents(changes)
        return twin


def _by_field_names(options: Mapping[str, Any], other_names: Mapping[str, str]) -> dict[str, Any]:
    """Return options by the names of their fields.

    Raises:
        InvalidTypeError: One is an array. No option is, and a comparison with an array is no bool, but a raw error.
    """
    for name, value in options.items():
        dimensions = getattr(value, "ndim", 0)
        if isinstance(dimensions, int) and dimensions > 0:
            raise InvalidTypeError(f"{name} must not be an array (here of class {type(value).__name__}).")
    return with_field_names(options, other_names)


def _validate_field(model: type[BaseModel], name: str, value: Any) -> Any:
    """Return the value for a field, converted as at construction."""
    try:
        checked = getattr(_single_field(model, name).model_validate({name: value}), name)
    except ValidationError as error:
        raise _invalid_option_error(error) from None
    return value if type(checked) is type(value) else checked


@functools.cache
def _single_field(model: type[BaseModel], name: str) -> type[BaseModel]:
    field = copy.copy(model.model_fields[name])
    field.alias = field.validation_alias = None
    config = ConfigDict(arbitrary_types_allowed=True, hide_input_in_errors=True, protected_namespaces=())
    fields: dict[str, Any] = {name: (field.annotation, field)}
    return create_model(model.__name__, __config__=config, **fields)


def _invalid_option_error(error: ValidationError) -> ConfigurationError:
    """Return this project's error for pydantic's, with names and reasons only: a value may be a secret."""
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    reasons = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in complaints]
    words = "; ".join(": ".join(filter(None, reason)) for reason in reasons)
    return ConfigurationError(f"An option is invalid. {words.rstrip('.')}.")
