"""Reads Thrift's compact protocol, as far as Parquet's metadata go, from bytes that nobody vouches for.

The protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. What two readers could
take differently is refused: fields out of order, numbers beyond their width, types that are not needed here. One
thing is left to the caller: a generated reader believes its schema, not the file, about what a list holds, so that
each list has to be looked at; `fits` does it.
"""

from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 8
"""Parquet's own structs go five deep."""

_TRUE, _FALSE, _INT16, _INT32, _INT64, _BINARY, _LIST, _STRUCT = 1, 2, 4, 5, 6, 8, 9, 12
_BITS = {_INT16: 16, _INT32: 32, _INT64: 64}
_IN_LISTS = (_INT32, _INT64, _BINARY, _STRUCT)
_VARINT_BYTES = 10


class Malformed(ValueError):
    """The bytes are not what they should be."""


@dataclass(slots=True)
class CompactReader:
    """Reads from `position` on, never beyond `end`."""

    data: bytes
    position: int
    end: int

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct: its fields by their numbers, as bool, int, bytes, list or dict."""
        if depth > MAX_DEPTH:
            raise Malformed(f"found structs more than {MAX_DEPTH} deep at {self.position}")
        fields: dict[int, Any] = {}
        number = 0
        while tag := self._take(1)[0]:
            step, kind = tag >> 4, tag & 15
            if not step:  # the number follows: never needed where fields are in order
                raise Malformed(f"found a field out of order at {self.position}")
            number += step
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _BITS:
            return self._integer(_BITS[kind])
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _LIST:
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise Malformed(f"found a value of type {kind} at {self.position}")

    def _list(self, depth: int) -> list[Any]:
        head = self._take(1)[0]
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if kind not in _IN_LISTS or size > self.end - self.position:  # each value takes a byte or more
            raise Malformed(f"found a list of {size} values of type {kind} at {self.position}")
        return [self._value(kind, depth) for _ in range(size)]

    def _integer(self, bits: int) -> int:
        """Read a zigzag integer: its lowest bit is the sign."""
        coded = self._varint()
        if coded >> bits:
            raise Malformed(f"found more than {bits} bits before {self.position}")
        return (coded >> 1) ^ -(coded & 1)

    def _varint(self) -> int:
        """Read seven bits a byte, the lowest first."""
        number = 0
        for count in range(_VARINT_BYTES):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                return number
        raise Malformed(f"found a number without end at {self.position}")

    def _take(self, size: int) -> bytes:
        begin = self.position
        if size > self.end - begin:
            raise Malformed(f"found {self.end - begin} bytes at {begin}; needed {size}")
        self.position += size
        return self.data[begin : self.position]


@dataclass(frozen=True, slots=True)
class Maybe:
    """A field that may be missing."""

    shape: Any


def fits(found: Any, shape: Any) -> bool:
    """Whether what was read is of a shape: a type, a dict of shapes, a list of one shape, or a value itself."""
    if isinstance(shape, type):
        return type(found) is shape
    if isinstance(shape, list):
        return isinstance(found, list) and all(fits(value, shape[0]) for value in found)
    if isinstance(shape, dict):
        return isinstance(found, dict) and found.keys() <= shape.keys() and _fields_fit(found, shape)
    return type(found) is type(shape) and bool(found == shape)  # True is no 1 here


def _fields_fit(found: dict[int, Any], shape: dict[int, Any]) -> bool:
    for number, wanted in shape.items():
        optional = isinstance(wanted, Maybe)
        if number not in found:
            if not optional:
                return False
        elif not fits(found[number], wanted.shape if optional else wanted):
            return False
    return True
