"""What the options before the command say, and the corpus that they lead to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

import retrieval
from backends.errors import InvalidSettings
from ops.output import Output
from retrieval import config


@dataclass
class Session:
    """The options before the command. `data` is a folder or a postgresql:// URL, None for the default."""

    data: str | None = None
    verbose: bool = False

    def settings(self) -> config.Settings:
        """Return the settings of this command: its options over the environment over the defaults."""
        return config.load(data=self.data)

    @contextmanager
    def open(self, output: Output, *, creating: bool = False) -> Iterator[retrieval.Ragstone]:
        """Open the corpus, and close it in the end, however that comes.

        Unless `creating`, a data folder that is not there is refused: a question to a mistyped folder would
        otherwise make an empty corpus and find nothing in it.
        """
        settings = self.settings()
        if not creating:
            _require_folder(settings.data)
        with output.waiting("Opening the corpus ..."):
            rag = retrieval.open(settings=settings)
        with rag:
            yield rag


def session(context: typer.Context) -> Session:
    """Return the session of a command's context."""
    found = context.obj
    assert isinstance(found, Session)
    return found


def is_url(data: str) -> bool:
    """Tell a postgresql:// URL from the path of a folder."""
    return "://" in data


def _require_folder(data: str) -> None:
    if not is_url(data) and not Path(data).expanduser().exists():
        raise InvalidSettings(
            "data", f"there is no folder {data}; ingest something first, or name another one with --data"
        )
