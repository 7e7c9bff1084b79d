"""Files as texts: formats, line ends, encodings, and every fault in one line with its place."""

import json

import pytest

from textgan.data.readers import read_texts
from textgan.errors import UserError


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "name, content, format, texts, blank",
    [
        ("a.txt", "one\ntwo\n", "lines", ["one", "two"], 0),
        ("a.txt", " one \n\n \t\ntwo", "lines", ["one", "two"], 2),
        ("a.txt", "\ufeffone\r\ntwo\r\n", "lines", ["one", "two"], 0),
        ("a.txt", "one\rtwo", "lines", ["one", "two"], 0),
        ("a.txt", "a\u2028b\x0bc\n二", "lines", ["a\u2028b\x0bc", "二"], 0),  # these end no line
        ("no_suffix", "one\ntwo\n", "lines", ["one", "two"], 0),
        ("a.txt", "a\n\nb\n\nc\n", "lines", ["a", "b", "c"], 2),  # lines with space between them
        ("a.txt", "a\n" * 50 + "\nb\n", "lines", ["a"] * 50 + ["b"], 1),  # one stray blank line
        ("a.txt", "\n\na b\nc\n \n\nd\r\n\r\ne\nf\n", "paragraphs", ["a b\nc", "d", "e\nf"], 0),
        ("a.txt", "one\n\nmore<|endoftext|>two\n<|endoftext|>", "endoftext", ["one\n\nmore", "two"], 0),
        ("a.txt", "<|endoftext|>one<|endoftext|><|endoftext|>two", "endoftext", ["one", "two"], 1),
        ("a.jsonl", '{"text": "a\\nb"}\n\n{"text": " "}\n"c"\n', "jsonl", ["a\nb", "c"], 1),
        ("a.txt", '{"text": "a"}\n{"text": "b"}', "jsonl", ["a", "b"], 0),
        ("a.txt", "{curly} line\nb", "lines", ["{curly} line", "b"], 0),
        ("a.json", '{"text": ["page one", "page two"]}', "jsonl", ["page one\n\npage two"], 0),
        ("a.csv", 'id,text\n1,"a, ""b""\nc"\n2,d\n3,\n', "csv", ['a, "b"\nc', "d"], 1),
        ("a.csv", "id;text\r\n1;a, b\r\n", "csv", ["a, b"], 0),
        ("a.tsv", "text\tid\na, b\t1\n", "csv", ["a, b"], 0),
    ],
)
def test_formats_are_found_and_read(tmp_path, name, content, format, texts, blank):
    reading = read_texts(write(tmp_path / name, content))
    assert (reading.texts, reading.formats, reading.blank) == (texts, {format: 1}, blank)


def test_a_given_format_is_taken(tmp_path):
    path = write(tmp_path / "a.csv", "a\n\nb\nc\n")
    assert read_texts(path, format="lines").texts == ["a", "b", "c"]
    assert read_texts(path, format="paragraphs").texts == ["a", "b\nc"]
    assert read_texts(path, format="endoftext").texts == ["a\n\nb\nc"]


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    write(tmp_path / "b.txt", "2\n3")
    write(tmp_path / "a" / "z.jsonl", '{"text": "1"}')
    write(tmp_path / "c.CSV", "text\n4")
    for name in ("readme.md", ".hidden.txt", ".git/x.txt"):
        write(tmp_path / name, "no")
    reading = read_texts(tmp_path)
    assert reading.texts == ["1", "2", "3", "4"]
    assert reading.formats == {"jsonl": 1, "lines": 1, "csv": 1}


def test_labels_are_the_record_s_field_or_the_file(tmp_path):
    records = ('{"text": "1", "who": "x  y"}', '{"text": " ", "who": "z"}', '{"who": 2.5, "text": "2"}')
    one = write(tmp_path / "a.jsonl", "\n".join(records))
    assert read_texts(one).labels == [None, None]
    assert read_texts(one, label="who").labels == ["x y", "2.5"]
    write(tmp_path / "b" / "c.csv", "text,who\n3,true\n4,\n")
    write(tmp_path / "b" / "v1.2.tsv", "who\ttext\nme\t5\n")
    assert read_texts(tmp_path).labels == ["a", "a", "b/c", "b/c", "b/v1.2"]
    assert read_texts(tmp_path, label="who").labels == ["x y", "2.5", "true", None, "me"]
    assert read_texts(tmp_path / "b").labels == ["c", "c", "v1.2"]


def test_a_pattern_names_files_of_any_suffix(tmp_path):
    for name, content in (("s.1", "c"), ("s.0", "a\nb"), ("t.0", "d"), (".s.2", "no")):
        write(tmp_path / name, content)
    (tmp_path / "s.folder").mkdir()
    reading = read_texts(tmp_path / "s.*")
    assert (reading.texts, reading.labels) == (["a", "b", "c"], ["s.0", "s.0", "s.1"])
    assert read_texts(tmp_path / "s.[1]").labels == [None]
    write(tmp_path / "s.[1]", "a file of this very name")
    assert read_texts(tmp_path / "s.[1]").texts == ["a file of this very name"]
    with pytest.raises(UserError, match=r"no file fits the pattern .*u\.\*"):
        read_texts(tmp_path / "u.*")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "one\ntwo", "a.txt is read as lines, which has no field 'who' for a label; jsonl and csv have"),
        ("a.jsonl", '{"text": "a", "who": 1}\n{"text": "b"}', ":2: no field 'who' for a label; there are: text"),
        ("a.jsonl", '{"text": "a", "who": [1]}', ":1: field 'who' holds a list, which is no label"),
        ("a.jsonl", '"a"', ":1: a JSON string, which has no field 'who' for a label"),
        ("a.csv", "text,whom\na,b", ":1: no column 'who'; there are: text, whom"),
        ("a.csv", "text,who\na", ":2: no field 'who': the row is too short"),
    ],
)
def test_faults_of_labels_are_told(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_texts(write(tmp_path / name, content), label="who")


def test_other_encodings(tmp_path):
    path = write(tmp_path / "a.txt", "né\nzwei".encode("latin-1"))
    assert read_texts(path, encoding="latin-1").texts == ["né", "zwei"]
    path = write(tmp_path / "b.txt", "né\nzwei".encode("utf-16"))
    assert read_texts(path, encoding="utf-16").texts == ["né", "zwei"]
    path = write(tmp_path / "c.txt", "小狗\n猫".encode("gb18030"))
    assert read_texts(path, encoding="gb18030").texts == ["小狗", "猫"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "ok\nfine\nn\xe9\n".encode("latin-1"), ":3: byte 0xe9 is not utf-8; set the file's encoding"),
        ("a.txt", b"ok\n\x89PNG\0\0", ":2: a NUL byte: this is no text file"),
        ("a.txt", "one".encode("utf-16"), ":1: a NUL byte: .*UTF-16"),
        ("a.txt", "", "a.txt holds no text"),
        ("a.txt", " \n\n", "a.txt holds no text"),
        ("a.txt", "ok\n" + "x" * 31, ":2: a text of 31 characters; at most max_chars=30"),
        ("a.txt", "ok\nso\n\n" + "x y\n" * 9, ":4: a text of 35 characters"),
        ("a.txt", "ok\n<|endoftext|>\n" + "x" * 31, ":3: a text of 31"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', ":2: invalid JSON: .*one object a line"),
        ("a.jsonl", "[" * 100_000, ":1: invalid JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', ":2: a JSON list; there must be one object a line"),
        ("a.jsonl", '{"story": "a", "id": 3}\n', ":1: no field 'text'; there are: story, id"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}\n', ":2: field 'text' holds a NoneType, not text"),
        ("a.jsonl", '{"text": ["a", 1]}\n', ":1: field 'text' holds a list, not text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', ":1: half of a surrogate pair"),
        ("a.csv", "id,story\n1,a\n", ":1: no column 'text'; there are: id, story"),
        ("a.csv", "id,text\n1,a\n2\n", ":3: no field 'text': the row is too short"),
        ("a.csv", 'id,text\n1,"a\n', ":2: invalid CSV"),
        ("a.csv", 'id,text\n1,a\n2,"b"c\n3,d\n', ":3: invalid CSV"),
        ("a.csv", "id,text\n1,a\n2," + "x" * 200_000, ":3: a text of 200,000 characters"),
    ],
)
def test_faults_are_told_in_one_line_with_their_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        read_texts(path, max_chars=30)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_faults_of_the_request(tmp_path):
    path = write(tmp_path / "a.txt", "a")
    with pytest.raises(UserError, match=r"nope\.txt does not exist"):
        read_texts(tmp_path / "nope.txt")
    with pytest.raises(UserError, match="unknown format 'tex'; known: auto, lines"):
        read_texts(path, format="tex")
    with pytest.raises(UserError, match="unknown encoding 'utf-9'"):
        read_texts(path, encoding="utf-9")
    with pytest.raises(UserError, match=r"no \.txt, \.jsonl or \.csv file below"):
        read_texts(write(tmp_path / "sub" / "a.md", "x").parent)


def test_the_other_fields(tmp_path):
    records = [{"id": 1, "pages": ["Who?", "Me."]}, {"id": 2, "pages": "One."}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    assert read_texts(path, field="pages").texts == ["Who?\n\nMe.", "One."]


@pytest.mark.corpora
def test_real_corpora(corpora):
    captions = read_texts(corpora / "image_coco" / "train.txt")
    assert (len(captions.texts), captions.formats) == (10_000, {"lines": 1})
    pages = read_texts(corpora / "stories" / "storybooks.jsonl", field="pages")
    assert (len(pages.texts), pages.formats) == (692, {"jsonl": 1})
    book = read_texts(corpora / "stories" / "gutenberg" / "2591_Grimms-Fairy-Tales.txt")
    assert book.formats == {"paragraphs": 1}
    assert len(book.texts) > 500
