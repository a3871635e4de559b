"""Parsing: what becomes a document, under which id, with which text, and what is refused with which words."""

import codecs
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.errors import DuplicateId, InvalidDocument, InvalidInput
from retrieval.documents import Document
from retrieval.parsing import SourceFile, find_files, parse_bytes, parse_file


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


def parse(name: str, data: str | bytes) -> Document:
    """The one document of an upload."""
    (document,) = parse_bytes(name, data if isinstance(data, bytes) else data.encode())
    return document


def refusal(name: str, data: str | bytes) -> InvalidDocument:
    """The error that an upload raises."""
    with pytest.raises(InvalidDocument) as raised:
        list(parse_bytes(name, data if isinstance(data, bytes) else data.encode()))
    return raised.value


class TestFindFiles:
    def test_a_folder_gives_its_files_in_sorted_order(self, tmp_path: Path) -> None:
        """Documents are named by their paths below the folder, with forward slashes."""
        write(tmp_path, "b.md", "a/z.html", "a/b/c.txt", "A.HTM", "data.jsonl")
        assert [source.name for source in find_files([tmp_path])] == [
            "A.HTM",
            "b.md",
            "data.jsonl",
            "a/z.html",
            "a/b/c.txt",
        ]

    def test_what_a_folder_has_besides_is_listed(self, tmp_path: Path) -> None:
        """Hidden files and folders and other suffixes are left out, and said to be."""
        write(tmp_path, "a.md", ".hidden.md", ".git/config.txt", "picture.png", "sub/LICENSE")
        found = find_files([tmp_path])
        assert [source.name for source in found] == ["a.md"]
        left_out = {path.relative_to(tmp_path).as_posix() for path in found.left_out}
        assert left_out == {".hidden.md", ".git", "picture.png", "sub/LICENSE"}

    def test_a_file_given_directly_is_named_by_its_file_name(self, tmp_path: Path) -> None:
        """Also a hidden one: who names a file wants it."""
        write(tmp_path, "deep/down/.note.md")
        (source,) = find_files([tmp_path / "deep/down/.note.md"])
        assert source == SourceFile(tmp_path / "deep/down/.note.md", ".note.md")

    def test_another_suffix_is_refused_with_those_that_are_supported(self, tmp_path: Path) -> None:
        """A file that somebody names is never left out in silence."""
        write(tmp_path, "report.pdf")
        with pytest.raises(InvalidInput, match=r"report\.pdf: found the suffix '\.pdf'; needed one of \.txt, \.md"):
            find_files([tmp_path / "report.pdf"])

    def test_a_missing_path_is_refused(self, tmp_path: Path) -> None:
        """The message names the path."""
        with pytest.raises(InvalidInput, match=r"nowhere: found no such file or folder"):
            find_files([tmp_path, tmp_path / "nowhere"])

    def test_a_link_in_a_circle_ends(self, tmp_path: Path) -> None:
        """Links to folders are left out, so that no file is found twice; links to files are files."""
        write(tmp_path, "a/b/c.md")
        (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
        (tmp_path / "a/self.md").symlink_to(tmp_path / "a/self.md")
        (tmp_path / "a/link.md").symlink_to(tmp_path / "a/b/c.md")
        found = find_files([tmp_path])
        assert [source.name for source in found] == ["a/link.md", "a/b/c.md"]
        assert found.left_out == [tmp_path / "a/self.md", tmp_path / "a/b/up"]

    def test_a_pipe_in_a_folder_is_left_out(self, tmp_path: Path) -> None:
        """Opening it would wait for ever."""
        os.mkfifo(tmp_path / "pipe.txt")
        assert find_files([tmp_path]).left_out == [tmp_path / "pipe.txt"]

    def test_two_files_of_one_id_are_refused(self, tmp_path: Path) -> None:
        """The second would replace the first; both are named."""
        write(tmp_path, "one/readme.md", "two/readme.md")
        with pytest.raises(DuplicateId, match=r"readme\.md: .*one/readme\.md and .*two/readme\.md"):
            find_files([tmp_path / "one", tmp_path / "two"])
        assert len(find_files([tmp_path])) == 2

    def test_two_jsonl_files_of_one_name_are_fine(self, tmp_path: Path) -> None:
        """Their documents bring their own ids."""
        write(tmp_path, "one/corpus.jsonl", "two/corpus.jsonl")
        assert len(find_files([tmp_path / "one", tmp_path / "two"])) == 2

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        """Such a name cannot be an id."""
        try:
            Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.md")).touch()
        except OSError:
            pytest.skip("this file system keeps UTF-8 names only")
        with pytest.raises(InvalidInput, match=r"caf\\xe9\.md: found a file name that is not UTF-8"):
            find_files([tmp_path])


class TestFiles:
    @pytest.mark.parametrize("data", [b"one\r\ntwo\rthree\n\n", b"\xef\xbb\xbfone\r\ntwo\rthree\n\n"])
    def test_a_text_is_kept_as_it_is(self, tmp_path: Path, data: bytes) -> None:
        """Line ends stay, so that offsets count in the source; a byte order mark is no part of the text."""
        (tmp_path / "a note.txt").write_bytes(data)
        (source,) = find_files([tmp_path])
        assert list(parse_file(source)) == [
            Document(
                id="a note.txt",
                title="a note",
                text="one\r\ntwo\rthree\n\n",
                metadata={"source": "a note.txt"},
            )
        ]

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
    def test_any_text_comes_back(self, text: str) -> None:
        """Plain text and Markdown are verbatim, blank ones too."""
        expected = text.removeprefix("\ufeff")
        assert parse("a.txt", text).text == expected
        assert parse("a.md", text).text == expected

    def test_an_upload_is_read_like_a_file(self, tmp_path: Path) -> None:
        """Both ways give the same documents."""
        for name, data in {"a.md": "# A\n", "a.htm": "<p>b", "a.jsonl": '{"id": "1", "text": "t"}\n\n'}.items():
            (tmp_path / name).write_text(data)
            assert list(parse_file(SourceFile(tmp_path / name, name))) == list(parse_bytes(name, data.encode()))

    def test_a_file_that_is_gone_is_refused(self, tmp_path: Path) -> None:
        """It may vanish between the listing and the reading."""
        with pytest.raises(InvalidInput, match=r"gone\.md: cannot be read: No such file"):
            list(parse_file(SourceFile(tmp_path / "gone.md", "gone.md")))

    def test_an_upload_of_another_suffix_is_refused_at_once(self) -> None:
        """Before anything is read from it."""
        with pytest.raises(InvalidInput, match=r"a\.docx: found the suffix '\.docx'"):
            parse_bytes("a.docx", b"")

    def test_bytes_that_are_not_utf8_are_refused(self) -> None:
        """The message says which byte, where it stands, and how to convert the file."""
        error = refusal("umlaut.md", "Grüße".encode("latin-1"))
        assert error.field == "umlaut.md"
        assert "byte 0xFC at byte offset 2" in error.problem
        assert "iconv -f ISO-8859-1 -t UTF-8" in error.problem
        assert "iconv -f UTF-16 -t UTF-8" in refusal("windows.txt", "text".encode("utf-16")).problem

    @pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
    def test_a_nul_character_is_refused(self, name: str) -> None:
        """PostgreSQL keeps none; the message says where it stands."""
        error = refusal(name, "grün\x00")
        assert str(error) == f"{name}: found a NUL character at character offset 4; needed text without it"


class TestMarkdown:
    @pytest.mark.parametrize(
        ("text", "title"),
        [
            ("intro\n\n## The `Vec<T>` *type* &amp; [more](x)\n\n# Later", "The Vec<T> type & more"),
            ("Set\next\n===\n", "Set ext"),
            ("```\n# comment\n```\n# Real", "Real"),
            ("#\n\n# Second", "Second"),
            ("#hashtag", "notes"),
            ("", "notes"),
            ("---\ntitle: Given\ntags: [a]\n---\n# Heading", "Given"),
            ("---\r\ntitle: 'It: quoted'\r\n---\r\n# Heading", "It: quoted"),
            ("---\ntitle: [not, plain]\n---\n# Heading", "Heading"),
            ("---\ntitle: |\n  block\n---\n# Heading", "Heading"),
            ("---\ndraft: true\n---\n# Heading", "Heading"),
            ("---\ntitle: no end", "notes"),
        ],
    )
    def test_the_title(self, text: str, title: str) -> None:
        """A plain title of the front matter, else the first heading's words, else the file's name."""
        document = parse("guide/notes.md", text)
        assert document.title == title
        assert document.text == text


TAGS = [
    f"<{slash}{tag}>" for tag in ("pre", "ul", "ol", "li", "h1", "table", "tr", "td", "p", "b") for slash in ("", "/")
]
TAGS += ["<br>", "<option>"]


class TestHtml:
    def test_a_page_reads_like_markdown(self) -> None:
        """Headings, paragraphs, lists, tables and code keep their structure; what is not shown is dropped."""
        page = """<!doctype html><html><head><title> A &amp;\n B </title><style>p {}</style></head><body>
            <nav>Home</nav><script>run()</script><noscript>Turn it on</noscript><template>Later</template>
            <h1>Head <em>one</em><br>two</h1><p>One&nbsp;two\n three, <b>bo</b>ld.<br>Next line.
            <ul><li>a<li><p>b</p><ol><li>first<li>second</ol><li></ul>
            <table><tr><th>Year</th><th>Days</th></tr><tr><td><p>20</p><p>26</p></td><td>30</td></tr>
            <tr><td></td><td>31</td></tr></table>
            <pre>\n  # indented\n    more\n</pre><dl><dt>Term<dd>Meaning</dl>&lt;p&gt; &#x1F642;</body></html>"""
        document = parse("page.html", page)
        assert document.title == "A & B"
        assert document.text == (
            "# Head one two\n\nOne two three, bold.\nNext line.\n\n- a\n- b\n\n  1. first\n  2. second\n\n"
            "Year | Days\n20 26 | 30\n| 31\n\n```\n  # indented\n    more\n```\n\nTerm\nMeaning\n\n<p> 🙂"
        )

    def test_a_table_that_lays_out_a_page_is_no_data(self) -> None:
        """Where a cell holds headings or other tables, the parts of the page stand one after another."""
        page = "<table><tr><td><h2>Part</h2>text<td>side<table><tr><td>a<td>b</table></table>"
        assert parse("a.html", page).text == "## Part\n\ntext\n\nside\n\na | b"

    @pytest.mark.parametrize(
        ("page", "title"),
        [("<title> </title><h1>The <i>head</i></h1>", "The head"), ("<p>text", "page"), ("", "page")],
    )
    def test_a_page_without_a_title(self, page: str, title: str) -> None:
        """The first h1 stands in for it, then the file's name."""
        assert parse("folder/page.htm", page).title == title

    @pytest.mark.parametrize(
        ("head", "encoding"),
        [
            (b'<meta charset="iso-8859-1">', "cp1252"),
            (b"<meta http-equiv=Content-Type content='text/html; charset=Shift_JIS'>", "shift_jis"),
            (b'<?xml version="1.0" encoding="windows-1251"?>', "cp1251"),
            (b'<meta charset="utf-16">', "utf-8"),
            (codecs.BOM_UTF8 + b"<meta charset=latin-1>", "utf-8"),
            (b"", "utf-8"),
        ],
    )
    def test_a_declared_charset_is_honoured(self, head: bytes, encoding: str) -> None:
        """As browsers do, a byte order mark first of all."""
        text = {"shift_jis": "日本語", "cp1251": "Привет"}.get(encoding, "“Grüße”")
        assert parse("a.html", head + f"<p>{text}".encode(encoding)).text == text

    def test_utf16_is_read_by_its_mark(self) -> None:
        """Its byte order mark says what it is."""
        assert parse("a.html", "<p>Grüße".encode("utf-16")).text == "Grüße"

    @pytest.mark.parametrize("charset", ["klingon", "rot13", "idna", "base64"])
    def test_an_unknown_charset_is_refused(self, charset: str) -> None:
        """Also one that Python knows and that is none."""
        error = refusal("a.html", f"<meta charset={charset}>")
        assert f"declared charset '{charset}'" in error.problem

    def test_elements_left_open_by_the_thousand_are_refused(self) -> None:
        """Parsing them would take minutes; many elements side by side are fine."""
        assert "inside each other" in refusal("a.html", "<div>" * 100_000).problem
        assert parse("a.html", "<p>a<svg><path/></svg><div>b<br></div>" * 5_000).text.count("a") == 5_000

    @given(st.lists(st.sampled_from([*TAGS, "<!--", "-->", "text", "\n", "`"]), max_size=40).map("".join))
    @example("<h1><table><tr>text")
    def test_any_tags_give_some_text(self, page: str) -> None:
        """However wrongly elements are nested, nothing fails, and no word that is shown is lost."""
        shown = page.replace("<!--", "").replace("-->", "")
        assert parse("a.html", shown).text.count("text") == shown.count("text")
        parse("a.html", page)


LINE = {"_id": "1", "title": "T", "text": "x", "metadata": {"year": 2026}}


class TestJsonl:
    def test_each_line_is_a_document(self) -> None:
        """`id` does for `_id`; title and metadata may be missing; nothing is added; blank lines are skipped."""
        lines = [json.dumps(LINE), "", '{"id": "2", "text": "", "title": null, "metadata": null}', "  \r"]
        assert list(parse_bytes("c.jsonl", "\n".join(lines).encode())) == [
            Document(id="1", title="T", text="x", metadata={"year": 2026}),
            Document(id="2", text=""),
        ]

    def test_lines_end_at_line_feeds_alone(self) -> None:
        """Other separators of lines occur inside texts."""
        text = "a\u2028b\u0085c\u000bd"
        assert [document.text for document in parse_bytes("c.jsonl", json_line(text=text))] == [text]

    def test_a_byte_order_mark_is_skipped(self) -> None:
        """At the start of the file, where editors put it."""
        assert parse("c.jsonl", codecs.BOM_UTF8 + json_line()).id == "1"

    def test_a_file_is_read_line_by_line(self, tmp_path: Path) -> None:
        """Documents come before a later fault is seen, so that a file may be larger than memory."""
        path = tmp_path / "c.jsonl"
        path.write_bytes(json_line() + b"not JSON\n")
        documents = parse_file(SourceFile(path, "c.jsonl"))
        assert next(documents).id == "1"
        with pytest.raises(InvalidDocument, match=r"^c\.jsonl line 2: found no valid JSON"):
            next(documents)

    @pytest.mark.parametrize(
        ("line", "field", "found"),
        [
            ("{", "", "found no valid JSON"),
            ("[1]", "", "found an array; needed an object"),
            ("[" * 100_000, "", "nested too deep"),
            ('{"_id": "1", "text": NaN}', "", "NaN is not JSON"),
            ('{"_id": ' + "9" * 5_000 + "}", "", "found no valid JSON"),
            ('{"text": "x"}', ": _id", "found none; needed a string"),
            ('{"_id": 17, "text": "x"}', ": _id", "found a number; needed a string, in double quotes"),
            ('{"_id": null, "id": "1", "text": "x"}', ": _id", "found null"),
            ('{"id": true, "text": "x"}', ": id", "found a boolean"),
            ('{"_id": "1"}', ": text", "found none"),
            ('{"_id": "1", "text": ["x"]}', ": text", "found an array"),
            ('{"_id": "1", "text": "x", "title": {}}', ": title", "found an object"),
            ('{"_id": "1", "text": "x", "metadata": []}', ": metadata", "needed an object"),
            ('{"_id": "1", "text": "ab\\u0000"}', ": text", "NUL character at character offset 2"),
            ('{"_id": "\\ud800", "text": "x"}', ": _id", "half a surrogate pair, U+D800, at character offset 0"),
            ('{"_id": "1", "text": "x", "metadata": {"a": "\\u0000"}}', ": metadata.a", "NUL"),
        ],
    )
    def test_a_fault_is_named_by_its_line_and_field(self, line: str, field: str, found: str) -> None:
        """The line counts from 1, blank ones included."""
        error = refusal("c.jsonl", json_line() + b"\n" + line.encode() + b"\n")
        assert error.field == f"c.jsonl line 3{field}"
        assert found in error.problem

    def test_bytes_that_are_not_utf8_are_counted_from_the_start_of_the_file(self) -> None:
        """So that an editor finds them, also after a byte order mark."""
        first = codecs.BOM_UTF8 + json_line()
        error = refusal("c.jsonl", first + b'{"_id": "\xfc"}')
        assert error.field == "c.jsonl line 2"
        assert f"byte 0xFC at byte offset {len(first) + 9}" in error.problem


def json_line(**changes: object) -> bytes:
    """A line of JSON Lines, its end included, as other tools write it: without escapes."""
    return json.dumps(LINE | changes, ensure_ascii=False).encode() + b"\n"
