"""Reading JSON documents strictly: small checks that combine, faults that carry their path, and an exact way back.

A *node* is a frozen dataclass whose fields are declared with ``item(check, default)``; the field's name is the key. ``read_node``
checks an object and builds the node, ``write_document`` turns a node back into plain JSON values. A node remembers in ``written``
which keys its document had, so that reading and writing give the same document; keys that were not there appear only once their
value differs from the default. Numbers are kept as they came (``1`` stays ``1``, ``1.0`` stays ``1.0``).

Every fault is a ``UserError`` of the form ``layers[0].boxes["12"].box: x1 must be greater than x0``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from .errors import UserError

Check = Callable[[object, str], Any]
"""Takes a JSON value and its path; returns the checked value or raises ``UserError``."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FRAME_KEY = re.compile(r"(0|[1-9][0-9]*)\Z")
_MAX_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An object of a document. ``written`` holds the keys that the document had, in its order; nodes of the same values are equal
    whether or not defaults were written out."""

    written: tuple[str, ...] = field(default=(), compare=False, repr=False)


NodeType = TypeVar("NodeType", bound=Node)


def item(check: Check, default: object = MISSING) -> Any:
    """A field of a node: its check, and the value it has when the key is missing (without one, the key is required)."""
    metadata = {"check": check}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: MappingProxyType({}), metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def fault(path: str, reason: str) -> NoReturn:
    """Raise the ``UserError`` that says where in the document the fault lies and what it is."""
    raise UserError(f"{path or 'the project file'}: {reason}")


def shown(value: object) -> str:
    """A value as a fault quotes it: JSON, on one line, shortened."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        text = json.dumps(value[: _MAX_SHOWN + 1])
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_MAX_SHOWN:
        text = "a huge number"
    else:
        text = "null" if value is None else str(value).lower() if isinstance(value, (bool, float)) else str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def key_path(path: str, key: object) -> str:
    """The path of a key inside the object at ``path``."""
    text = str(key)
    if _PLAIN_KEY.match(text) and len(text) <= _MAX_SHOWN:
        return f"{path}.{text}" if path else text
    return f"{path}[{shown(text)}]"


# -- objects --------------------------------------------------------------------------------------------------------------------


def read_node(node_type: type[NodeType], value: object, path: str) -> NodeType:
    """Check an object against the fields of ``node_type``. Unknown and missing keys are faults."""
    if not isinstance(value, Mapping):
        fault(path, f"must be an object, not {shown(value)}")
    known = _items(node_type)
    for key in value:
        if key not in known:
            fault(key_path(path, key), f"unknown key; known here are {', '.join(known)}")
    for name, declared in known.items():
        if name not in value and declared.default is MISSING and declared.default_factory is MISSING:
            fault(path, f"the key {json.dumps(name)} is missing")
    checked = {key: known[key].metadata["check"](entry, key_path(path, key)) for key, entry in value.items()}
    return node_type(written=tuple(value), **checked)


def write_document(value: object) -> Any:
    """Plain JSON values from a node: the exact way back from ``read_node``."""
    if isinstance(value, Node):
        return {name: write_document(getattr(value, name)) for name in _names_to_write(value)}
    if isinstance(value, Mapping):
        return {str(key): write_document(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [write_document(entry) for entry in value]
    return value


def _items(node_type: type[Node]) -> dict[str, Field[Any]]:
    return {declared.name: declared for declared in fields(node_type) if "check" in declared.metadata}


def _names_to_write(node: Node) -> list[str]:
    names = list(node.written)
    for name, declared in _items(type(node)).items():
        default = declared.default if declared.default_factory is MISSING else declared.default_factory()
        if name not in node.written and (default is MISSING or getattr(node, name) != default):
            names.append(name)
    return names


# -- checks ---------------------------------------------------------------------------------------------------------------------


def number(low: float, high: float) -> Check:
    """A finite number in ``low..high``, kept as it came."""

    def check(value: object, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            fault(path, f"must be a number, not {shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            fault(path, f"must be a finite number, not {shown(value)}")
        if not low <= value <= high:
            fault(path, f"must lie between {low:g} and {high:g}, not {shown(value)}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    """A whole number in ``low..high``, written without a decimal point."""

    def check(value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            fault(path, f"must be a whole number, not {shown(value)}")
        if not low <= value <= high:
            fault(path, f"must lie between {low} and {high}, not {shown(value)}")
        return value

    return check


def boolean(value: object, path: str) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        fault(path, f"must be true or false, not {shown(value)}")
    return value


def one_of(*names: str) -> Check:
    """One of a few words."""

    def check(value: object, path: str) -> str:
        if not isinstance(value, str) or value not in names:
            fault(path, f"must be {' or '.join(json.dumps(name) for name in names)}, not {shown(value)}")
        return value

    return check


def line(min_length: int, max_length: int) -> Check:
    """Text on one line: no control characters, nothing that UTF-8 cannot hold."""

    def check(value: object, path: str) -> str:
        if not isinstance(value, str):
            fault(path, f"must be text, not {shown(value)}")
        if not min_length <= len(value) <= max_length:
            fault(path, f"must have {min_length} to {max_length} characters, not {len(value)}")
        if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
            fault(path, "must not hold control characters or broken Unicode")
        return value

    return check


def sha256(value: object, path: str) -> str:
    """64 hexadecimal digits, small letters."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        fault(path, f"must be 64 hexadecimal digits in small letters, not {shown(value)}")
    return value


def nullable(check: Check) -> Check:
    """``null``, or what ``check`` takes."""
    return lambda value, path: None if value is None else check(value, path)


def node(node_type: type[NodeType], also: Callable[[NodeType, str], None] | None = None) -> Check:
    """An object with the fields of ``node_type``; ``also`` checks what concerns several of its keys."""

    def check(value: object, path: str) -> NodeType:
        made = read_node(node_type, value, path)
        if also is not None:
            also(made, path)
        return made

    return check


def list_of(check: Check, min_items: int, max_items: int) -> Check:
    """A list, as a tuple, every entry of which passes ``check``."""

    def check_list(value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            fault(path, f"must be a list, not {shown(value)}")
        if not min_items <= len(value) <= max_items:
            wanted = f"{min_items}" if min_items == max_items else f"{min_items} to {max_items}"
            fault(path, f"must have {wanted} entries, not {len(value)}")
        return tuple(check(entry, f"{path}[{index}]") for index, entry in enumerate(value))

    return check_list


def mapping_of(check_key: Check, check: Check, max_items: int) -> Check:
    """An object with free keys, as a read-only mapping; the keys and the values are checked, their order is kept."""

    def check_mapping(value: object, path: str) -> Mapping[Any, Any]:
        if not isinstance(value, Mapping):
            fault(path, f"must be an object, not {shown(value)}")
        if len(value) > max_items:
            fault(path, f"must have at most {max_items} entries, not {len(value)}")
        return MappingProxyType(
            {check_key(key, key_path(path, key)): check(entry, f"{path}[{shown(key)}]") for key, entry in value.items()}
        )

    return check_mapping


def frame_key(max_frame: int) -> Check:
    """A frame number as a key: decimal digits without sign, space or leading zero, so that no frame has two names."""

    def check(value: object, path: str) -> int:
        if not isinstance(value, str) or not _FRAME_KEY.match(value):
            fault(path, "a frame key must be a whole number without sign or leading zeros")
        if len(value) > len(str(max_frame)) or int(value) > max_frame:
            fault(path, f"a frame key must be at most {max_frame}")
        return int(value)

    return check


# -- text -----------------------------------------------------------------------------------------------------------------------


def decode_json(data: bytes | str, max_bytes: int, what: str = "the project file") -> object:
    """Strict JSON: bounded, no NaN or Infinity, no key twice in an object, no nesting that breaks the reader. ``what`` it is that
    is read stands at the head of every fault."""
    if len(data) > max_bytes:
        fault(what, f"it has more than the {max_bytes / 2**20:.0f} MiB that it may have")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs)
    except UnicodeDecodeError:
        fault(what, "it is not text in UTF-8")
    except RecursionError:
        fault(what, "it is nested far deeper than it may be")
    except json.JSONDecodeError as error:
        fault(what, f"it is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}")
    except _Refused as refused:
        fault(what, str(refused))
    except ValueError:
        fault(what, "it holds a number with too many digits")


class _Refused(Exception):
    """JSON that is valid and yet not taken; the text says why."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"it holds {name}, but every number must be finite")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {shown(key)} appears twice in one object")
            seen.add(key)
    return made
