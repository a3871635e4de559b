"""Where a command's words go: its result to standard output, everything else to standard error."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.text import Text

BROKEN_PIPE = 141
"""The exit status of a program whose reader went away (128 + SIGPIPE), as a shell shows it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Output:
    """A command's two consoles. With `as_json` the result is one JSON document, and there is no other."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.results = _QuietConsole(highlight=False, markup=False, emoji=False)
        self.notes = _QuietConsole(stderr=True, highlight=False, markup=False, emoji=False)

    def result(self, document: Mapping[str, object], show: Callable[[Console], None] | None = None) -> None:
        """Print the result: `document` as JSON where that was asked for, else what `show` prints."""
        if not self.as_json:
            if show:
                show(self.results)
            return
        try:
            sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            end_broken_pipe()

    def note(self, text: str) -> None:
        """Tell people something that is not part of the result."""
        self.notes.print(text, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal that something takes a while; elsewhere say nothing."""
        if not self.notes.is_terminal:
            yield
            return
        with self.notes.status(text):
            yield


class _QuietConsole(Console):
    """A console that ends quietly when its reader went away, as `| head` does."""

    def on_broken_pipe(self) -> NoReturn:
        end_broken_pipe()


def end_broken_pipe() -> NoReturn:
    """End the program without a word: nobody reads it any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE)


def prepare_streams() -> None:
    """Let characters that the terminal's encoding lacks be escaped, in place of ending in an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return `text` without the control characters by which a document could steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def snippet(text: str, characters: int = 200) -> Text:
    """Return the beginning of a passage in one line."""
    line = " ".join(text.split())
    shortened = line if len(line) <= characters else line[: characters - 1].rstrip() + "…"
    return Text(printable(shortened))


def milliseconds(timings_ms: Mapping[str, float]) -> Text:
    """Return the time of each stage in one line: `embed 12.3 ms · search 4.5 ms`."""
    stages = [f"{stage.removesuffix('_ms')} {spent_ms:.1f} ms" for stage, spent_ms in timings_ms.items()]
    return Text(" · ".join(stages), style="dim")
