"""Files and uploads into documents: .txt, .md, .html, .htm and .jsonl."""

from retrieval.parsing.reading import parse_bytes, parse_file
from retrieval.parsing.sources import SUFFIXES, FoundFiles, SourceFile, find_files

__all__ = ["SUFFIXES", "FoundFiles", "SourceFile", "find_files", "parse_bytes", "parse_file"]
