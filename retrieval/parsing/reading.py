"""One file or upload into its documents."""

import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from backends.errors import InvalidInput
from retrieval.documents import Document
from retrieval.parsing.decoding import check_text, read_text
from retrieval.parsing.html import read_html
from retrieval.parsing.jsonl import parse_jsonl
from retrieval.parsing.markdown import markdown_title
from retrieval.parsing.sources import SourceFile, suffix_of


def parse_file(source: SourceFile) -> Iterator[Document]:
    """Yield the documents of a file; a .jsonl file is read line by line, so that it may be of any size.

    A document of a file is named after it, has its name as `metadata["source"]`, and may be blank.
    Raises InvalidDocument for contents that are no text, and InvalidInput for a file that cannot be opened.
    """
    try:
        with source.path.open("rb") as file:
            if suffix_of(source.path.name) == ".jsonl":
                yield from parse_jsonl(source.name, file)
            else:
                yield _document(source.name, file.read())
    except OSError as error:
        raise InvalidInput(str(source.path), f"cannot be read: {error.strerror}") from error


def parse_bytes(name: str, data: bytes) -> Iterator[Document]:
    """Yield the documents of an upload of that file name, as `parse_file` does for a file."""
    check_text("name", name)
    if suffix_of(name) == ".jsonl":
        return parse_jsonl(name, io.BytesIO(data))
    return iter([_document(name, data)])


def _document(name: str, data: bytes) -> Document:
    title, text = _READERS[suffix_of(name)](name, data)
    return Document(id=name, title=title or PurePosixPath(name).stem, text=text, metadata={"source": name})


def _read_plain(name: str, data: bytes) -> tuple[str, str]:
    return "", read_text(name, data)


def _read_markdown(name: str, data: bytes) -> tuple[str, str]:
    text = read_text(name, data)
    return markdown_title(text), text


_READERS: dict[str, Callable[[str, bytes], tuple[str, str]]] = {
    ".txt": _read_plain,
    ".md": _read_markdown,
    ".html": read_html,
    ".htm": read_html,
}
"""A file's title, empty where it has none, and its text."""
