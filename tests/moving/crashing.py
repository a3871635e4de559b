"""A mover that dies: nothing that it would have done later happens."""

from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest


class Crash(BaseException):
    """The end of a process, as far as it can be had inside of one: no handler of errors sees it."""


@dataclass(frozen=True)
class Step:
    """The `nth` call of a function: the process ends before it, or right after it."""

    owner: Any
    function: str
    nth: int = 1
    after: bool = False

    def crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Crash there, until `monkeypatch` undoes it."""
        original, calls = getattr(self.owner, self.function), count(1)

        def crashing(*args: Any, **named: Any) -> Any:
            if next(calls) != self.nth:
                return original(*args, **named)
            if self.after:
                original(*args, **named)
            raise Crash

        monkeypatch.setattr(self.owner, self.function, crashing)
