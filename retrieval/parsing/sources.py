"""Which files to read, and the ids that their documents get."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backends.errors import DuplicateId, InvalidInput

SUFFIXES = (".txt", ".md", ".html", ".htm", ".jsonl")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read. `name` is its document's id; the documents of a .jsonl file bring their own."""

    path: Path
    name: str


class FoundFiles(list[SourceFile]):
    """The files to read, in order.

    `left_out` holds what a given folder has besides: other suffixes, hidden files and folders, links to
    folders, and what is no regular file.
    """

    def __init__(self, files: Iterable[SourceFile], left_out: Sequence[Path]) -> None:
        super().__init__(files)
        self.left_out = list(left_out)


def suffix_of(name: str) -> str:
    """The supported suffix of `name` in lower case; InvalidInput lists those that are supported."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        found = f"found the suffix {suffix!r}" if suffix else "found no suffix"
        raise InvalidInput(name or "name", f"{found}; needed one of {', '.join(SUFFIXES)}")
    return suffix


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """Find the files that `paths` name, and those in the folders that they name, in sorted order.

    A file in a given folder is named by its path below that folder, with forward slashes; a file given
    directly by its file name. Nothing is read yet.
    Raises InvalidInput for a path that is missing, cannot be read or has another suffix, and DuplicateId
    where two files would give documents of the same id.
    """
    files: list[SourceFile] = []
    left_out: list[Path] = []
    for path in paths:
        if path.is_dir():
            files.extend(_files_in(path, left_out))
        else:
            files.append(_given_file(path))
    _check_distinct(files)
    return FoundFiles(files, left_out)


def _given_file(path: Path) -> SourceFile:
    if not path.exists():
        raise InvalidInput(str(path), "found no such file or folder; needed one that exists")
    if not path.is_file():
        raise InvalidInput(str(path), "found neither a file nor a folder; needed one of them")
    suffix_of(str(path))
    return _source(path, path.name)


def _files_in(folder: Path, left_out: list[Path]) -> Iterator[SourceFile]:
    # Links to folders are not followed: they may lead back up, and would give a file a second id.
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        here = Path(parent)
        left_out.extend(here / name for name in sorted(folders) if not _walked(here / name))
        folders[:] = sorted(name for name in folders if _walked(here / name))
        for path in (here / name for name in sorted(names)):
            if _readable(path):
                yield _source(path, path.relative_to(folder).as_posix())
            else:
                left_out.append(path)


def _walked(folder: Path) -> bool:
    return not folder.name.startswith(".") and not folder.is_symlink()


def _readable(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file()


def _source(path: Path, name: str) -> SourceFile:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InvalidInput(shown, "found a file name that is not UTF-8; needed another name") from None
    return SourceFile(path, name)


def _unreadable(error: OSError) -> NoReturn:
    raise InvalidInput(str(error.filename), f"cannot be read: {error.strerror}") from error


def _check_distinct(files: Iterable[SourceFile]) -> None:
    seen: dict[str, Path] = {}
    for source in files:
        if source.path.suffix.lower() == ".jsonl":
            continue
        if source.name in seen:
            both = f"{seen[source.name]} and {source.path}"
            raise DuplicateId(source.name, f"found for both {both}; needed the folder above them, or one of them")
        seen[source.name] = source.path
