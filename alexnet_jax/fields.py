"""Base class of config dataclasses: type checks, sealing, JSON, copies and differences.

A config is mutable while its file builds it and flags override its fields. `sealed` checks the
type of every field and makes the config and its sections read-only.
"""

import copy
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from alexnet_jax.errors import InputError

S = TypeVar("S", bound="Section")
MAX_SHOWN = 200  # number of characters of a value in a message
Json = dict[str, Any]  # a JSON object
Difference = tuple[str, Any, Any]  # the path of a field, and its values in two configs


class Section:
    """Base class of a config and its sections, which are dataclasses.

    Attributes:
        is_variant: whether a field of this type may hold any of several subclasses, such as the
            ops of a model. Their JSON objects name the subclass under "type".
    """

    is_variant: ClassVar[bool] = False

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field.

        Raises:
            AttributeError: the config is sealed, or has no such field.
        """
        if self.__dict__.get("_sealed"):
            raise AttributeError(
                f"{type(self).__name__} is sealed; make a changed copy with fields.replace"
            )
        if name not in field_types(type(self)):
            raise AttributeError(unknown_field(name, field_types(type(self))))
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Raise AttributeError: a deleted field would silently have its class's default."""
        raise AttributeError(f"{type(self).__name__} cannot lose its field {name}")

    def __getstate__(self) -> dict[str, object]:
        """Return the fields without the seal, so that copies are mutable."""
        return {name: value for name, value in self.__dict__.items() if name != "_sealed"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore the fields."""
        self.__dict__.update(state)


class _SealedDict(dict[str, Any]):
    """A read-only dictionary of sections."""

    def _refuse(self, *_: object, **__: object) -> typing.NoReturn:
        """Raise TypeError; in place of every method that changes a dictionary."""
        raise TypeError("the config is sealed; make a changed copy with fields.replace")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __eq__(self, other: object) -> bool:
        """Compare entries and their order."""
        return isinstance(other, dict) and [*self.items()] == [*other.items()]

    __hash__ = None

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def unknown_field(path: str, known: Iterable[str]) -> str:
    """Return the message for a field that does not exist, with the most similar existing name.

    Args:
        path: path of the field in the config.
        known: names of the existing fields.
    """
    names = list(known)
    close = difflib.get_close_matches(path.rpartition(".")[2], names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
    return f"the config has no field {path}; {hint}"


def field_types(section: type) -> dict[str, Any]:
    """Return the type of every field of a section by name."""
    return {field.name: field.type for field in dataclasses.fields(section)}


def sealed(section: S, where: str = "") -> S:
    """Check the types of all fields, convert numbers and sequences to them, and seal the section.

    Args:
        where: path of the section in the config, for messages.

    Raises:
        InputError: a value does not have the type of its field.
    """
    for name, kind in field_types(type(section)).items():
        path = f"{where}.{name}" if where else name
        value = _converted(getattr(section, name), kind, path)
        section.__dict__[name] = value
    section.__dict__["_sealed"] = True
    return section


def _converted(value: Any, kind: Any, where: str) -> Any:
    """Return the value converted to the type of its field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        if isinstance(value, kind):
            return sealed(value, where)
    elif origin is dict:
        if isinstance(value, dict):
            return _SealedDict(
                {name: _converted(v, arguments[1], f"{where}.{name}") for name, v in value.items()}
            )
    elif origin is tuple:
        if isinstance(value, tuple | list):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(
                    _converted(v, k, f"{where}[{i}]")
                    for i, (v, k) in enumerate(zip(value, kinds, strict=True))
                )
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
            raise InputError(f"{where}={_shown(value)}; expected a finite number")
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            if -(2**63) <= value < 2**63:
                return value
            raise InputError(f"{where}={_shown(value)}; expected a whole number of 64 bits")
    elif isinstance(value, kind):
        return value
    raise InputError(f"{where} is {_shown(value)}; expected {_type_name(kind)}")


def _shown(value: object) -> str:
    """Return a value as text for messages, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _type_name(kind: Any) -> str:
    """Return the name of a type for messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        names = [_type_name(k) for k in arguments if k is not Ellipsis]
        if arguments[-1] is Ellipsis:
            return f"a tuple whose elements are each {names[0]}"
        return f"a tuple of {', '.join(names)}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def replace(section: S, changes: Mapping[str, Any]) -> S:
    """Return an unsealed deep copy with some fields changed.

    Args:
        changes: new values by the path of their field, such as {"model.ops.conv1.features": 8}.
    """
    changed = copy.deepcopy(section)
    for path, value in changes.items():
        *parents, name = path.split(".")
        part: Any = changed
        for parent in parents:
            part = part[parent] if isinstance(part, dict) else getattr(part, parent)
        if isinstance(part, dict):
            part[name] = value
        else:
            setattr(part, name, value)
    return changed


def to_json(value: Any) -> Any:
    """Return a section, or a value in one, as a JSON value."""
    if isinstance(value, Section):
        named = {"type": type(value).__name__} if value.is_variant else {}
        return named | {n: to_json(getattr(value, n)) for n in field_types(type(value))}
    if isinstance(value, dict):
        return {name: to_json(v) for name, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, tuple | list) else value


def from_json(kind: type[S], content: object, where: str = "") -> S:
    """Return the section, not sealed, that a JSON object from `to_json` describes.

    Raises:
        InputError: a field is missing or unknown, or the content is not that of such a section.
    """
    if not isinstance(content, dict):
        raise InputError(
            f"{where or 'the config'} is {_shown(content)}; expected an object of fields"
        )
    given = dict(content)
    if kind.is_variant:
        kind = _variant(kind, given.pop("type", None), where)
    fields = field_types(kind)
    for name in given:
        if name not in fields:
            raise InputError(unknown_field(f"{where}.{name}" if where else name, fields))
    if missing := [name for name in fields if name not in given]:
        raise InputError(f"{where or 'the config'} lacks the fields {', '.join(missing)}")
    return kind(
        **{
            name: _parsed(given[name], fields[name], f"{where}.{name}" if where else name)
            for name in fields
        }
    )


def _variant(kind: type[S], name: object, where: str) -> type[S]:
    """Return the subclass with a name."""
    known = {variant.__name__: variant for variant in _subclasses(kind)}
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{where} has type={_shown(name)}; expected one of {', '.join(known)}")
    return known[name]


def _subclasses(kind: type[S]) -> Iterator[type[S]]:
    """Yield all direct and indirect subclasses."""
    for variant in kind.__subclasses__():
        yield variant
        yield from _subclasses(variant)


def _parsed(value: Any, kind: Any, where: str) -> Any:
    """Return a JSON value with its objects turned into sections."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return from_json(kind, value, where)
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is dict and isinstance(value, dict):
        inner = kind.__args__[1]
        return {name: _parsed(v, inner, f"{where}.{name}") for name, v in value.items()}
    return value


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """Yield (path, old value, new value) for every leaf in which two JSON values differ.

    The order of entries matters, since a model applies its ops in order. If the entries that both
    objects have are in different orders, the lists of their names are yielded as values.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        old_keys, new_keys = [key for key in old if key in new], [key for key in new if key in old]
        if old_keys != new_keys:
            yield path, old_keys, new_keys
        for key in dict.fromkeys([*old, *new]):
            where = f"{path}.{key}" if path else key
            yield from differences(old.get(key), new.get(key), where)
    elif old != new:
        yield path, old, new


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for every leaf of a JSON value, such as ("data.crop", 224)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def find_unknown(section: Section, path: str) -> str | None:
    """Return the message for the first name in a path that does not exist; None if all exist."""
    part: Any = section
    parents: list[str] = []
    for name in path.split("."):
        if isinstance(part, Section):
            known = field_types(type(part))
        elif isinstance(part, dict):
            known = part
        else:
            return f"the config has no field {path}; {'.'.join(parents)} is a value"
        if name not in known:
            return unknown_field(".".join([*parents, name]), known)
        parents.append(name)
        part = part[name] if isinstance(part, dict) else getattr(part, name)
    return None


def check_value(name: str, value: object, expected: str, is_valid: bool) -> None:
    """Raise InputError unless a value is valid."""
    if not is_valid:
        raise InputError(f"{name}={value}; expected {expected}")
