"""Server-sent events, read from bytes that may be cut anywhere."""

import re

MAX_EVENT_BYTES = 1 << 20

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """A server that sends an endless line is not believed."""


class EventDecoder:
    """Turns the bytes of a text/event-stream into the data of its events.

    Bytes are decoded a whole line at a time, so that a character cut in two stays whole. Comments and the fields
    `event`, `id` and `retry` are left out, and so is an event that the stream ends in the middle of.
    """

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line that has not ended
        self._data: list[str] = []
        self._data_size = 0
        self._at_start = True
        self._after_return = False

    def feed(self, received: bytes) -> list[str]:
        """Return the data of the events that `received` completes; raises EventTooLong."""
        if not received:
            return []
        if self._after_return:  # its line ended already, at the first half of a CRLF
            received = received.removeprefix(b"\n")
        self._after_return = received.endswith(b"\r")
        if self._at_start:
            received = self._without_mark(received)
        events = [event for line in self._whole_lines(received) if (event := self._take(line)) is not None]
        if len(self._rest) + self._data_size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def _without_mark(self, received: bytes) -> bytes:
        """Take a byte order mark away; return nothing, and keep it, while this may be half of one."""
        beginning = bytes(self._rest) + received
        if len(beginning) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(beginning):
            self._rest += received
            return b""
        self._rest.clear()
        self._at_start = False
        return beginning.removeprefix(_BYTE_ORDER_MARK)

    def _whole_lines(self, received: bytes) -> list[str]:
        """Return the lines that end in `received`; only that is searched, since a line may come in many parts."""
        *lines, rest = _LINE_END.split(received)
        if lines and self._rest:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        return [line.decode("utf-8", "replace") for line in lines]

    def _take(self, line: str) -> str | None:
        """Take in a line; return the data of the event that it ends, if it ends one."""
        if not line:
            data, self._data, self._data_size = self._data, [], 0
            return "\n".join(data) if data else None
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
            self._data_size += len(line) + 1  # an empty value takes room too
        return None
