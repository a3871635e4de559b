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
        self._rest = b""
        self._data: list[str] = []
        self._at_start = True
        self._after_return = False

    def feed(self, received: bytes) -> list[str]:
        """Return the data of the events that `received` completes; raises EventTooLong."""
        if not received:
            return []
        if self._after_return:  # its line ended already, at the first half of a CRLF
            received = received.removeprefix(b"\n")
        self._after_return = received.endswith(b"\r")
        self._rest += received
        if self._at_start and self._may_be_mark():
            return []
        events = [event for line in self._whole_lines() if (event := self._take(line)) is not None]
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def _may_be_mark(self) -> bool:
        """Take a byte order mark away; whether half of one may be here."""
        if len(self._rest) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(self._rest):
            return True
        self._rest = self._rest.removeprefix(_BYTE_ORDER_MARK)
        self._at_start = False
        return False

    def _whole_lines(self) -> list[str]:
        *lines, self._rest = _LINE_END.split(self._rest)
        return [line.decode("utf-8", "replace") for line in lines]

    def _take(self, line: str) -> str | None:
        """Take in a line; return the data of the event that it ends, if it ends one."""
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
        return None
