"""Tables as Excel, pandas and others write them, read as what they mean; and those that mean nothing."""

import csv
import os

import numpy as np
import pytest

from keras_vit.data.tables import read_numbers, read_table
from keras_vit.errors import InputError, Notice

ROWS = [["a", "p/1.png", 'ein "Hund", fällt; oder | nicht'], ["b", "p/2.png", ""], ["a", "", "zwei\nZeilen"]]


def written(path, encoding="utf-8", header=("label", "image", "text"), end="\r\n", **options):
    """What Python's own writer makes of `ROWS`."""
    with open(path, "w", encoding=encoding, newline="") as file:
        table = csv.writer(file, lineterminator=end, **options)
        table.writerow(header)
        table.writerows(ROWS)
    return path


def cells(path):
    columns, rows = read_table(path, "label")
    assert columns == ["label", "image", "text"]
    return [row for _, row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_separators_and_encodings(tmp_path, delimiter, encoding):
    assert cells(written(tmp_path / "t.csv", encoding, delimiter=delimiter)) == ROWS


@pytest.mark.parametrize(
    ("end", "quoting"),  # Python's writer does not quote "\n" where lines end in "\r"
    [("\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_MINIMAL), ("\r", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)],
)
def test_line_ends_and_quotes(tmp_path, end, quoting):
    assert cells(written(tmp_path / "t.csv", end=end, quoting=quoting)) == ROWS


@pytest.mark.parametrize(
    "header", [("Label", "IMAGE", "Text"), (" label", "image ", "\ttext"), ("LABEL", "Image", "text")]
)
def test_names_in_any_case_with_spaces(tmp_path, header):
    assert cells(written(tmp_path / "t.csv", header=header)) == ROWS


def test_other_western_bytes_are_read_and_said(tmp_path):
    for encoding in ("latin-1", "cp1252"):
        with pytest.warns(
            Notice, match=r"no text in UTF-8 and was read as Windows-1252.*save it as CSV in UTF-8"
        ):
            assert cells(written(tmp_path / "t.csv", encoding)) == ROWS
    (tmp_path / "t.csv").write_bytes(b"label,image,text\na,b,5 \x80 \x93so\x94\n")
    with pytest.warns(Notice):
        assert cells(tmp_path / "t.csv") == [["a", "b", "5 € “so”"]]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nlabel;image;text\na;b;c\n",
        '"sep=;"\nlabel;image;text\na;b;c\n',
        "label,image,text\n\n\na,b,c\n,,\n\n,,,,\n",
        "\nlabel,image,text\na,b,c\n",
        ",label,image,text\n0,a,b,c\n",
        "Unnamed: 0,label,image,text\n17,a,b,c\n",
        "label,image,text,,\na,b,c,,\n",
        "label,image,,text\na,b,,c\n",
        'label, "image", text\na, "b", c\n',
        "label;image;text\na;b;c",
    ],
)
def test_what_else_programs_write_around_it(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    assert cells(tmp_path / "t.csv") == [["a", "b", "c"]]


def test_rows_keep_their_line_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("sep=,\nlabel,text\na,x\n\nb,\nc,1,2\nd\n")
    assert read_table(tmp_path / "t.csv", "label") == (
        ["label", "text"],
        [(3, ["a", "x"]), (5, ["b", ""]), (6, None), (7, ["d", ""])],
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"label,image,Label\na,b,c\n", "has the column 'label' twice: delete or rename one"),
        (b"label,text,text \na,b,c\n", "has the column 'text' twice"),
        (
            b"class;image\na;b\n",
            r"has no column `label`: its columns are 'class', 'image'\. Name them in its first line",
        ),
        (b"a;b\nc;d\n", "has no column `label`: its columns are 'a', 'b'"),
        (b"", "has no column `label`: its columns are none"),
        (b"label,image,,text\na,b,x,c\n", "column 3 of .* has cells and no name"),
        (b",label\nx,a\n", "column 1 of .* has cells and no name"),
        (b'label,text\na,"never closed\nb,c\n', r"is no table at line \d.*a cell that holds quotes"),
        (b"label,text\na," + b"x" * 140_000 + b"\n", "line 2 .*field larger.*to be shortened"),
        (b'label,text\na,"two" words\n', "is no table at line 2"),
        (b"\xff\xfel\0a\0b\0", "has no column `label`"),
        (b"\xff\xfe\0\xd8", "is no text in UTF-16"),
        (b"PK\3\4" + bytes(range(256)), "null characters and is no text|is no text in"),
        (b"label,text\na," + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_table(tmp_path / "t.csv", "label")
    assert len(str(error.value)) <= 2000


def test_pipes_and_folders_are_no_tables(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"t.csv' is no regular file, but a named pipe"):
        read_table(tmp_path / "t.csv", "label")
    with pytest.raises(InputError, match="Is a directory"):
        read_table(tmp_path, "label")


@pytest.mark.parametrize(
    "text",
    [
        "1,2.5\n-3,4e1\n",
        "1;2,5\r\n-3;4e1\r\n",
        "1\t2,5\n-3\t40\n",
        "# a, comment\n1, 2.5\n\n-3, 40\n",
        "\ufeff1,2.5\n-3,40",
    ],
)
def test_numbers(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_numbers(tmp_path / "t.csv"), [[1, 2.5], [-3, 40]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", r"line 1 is 'x,y'\. It takes numbers alone, without a head"),
        ("1,2\n3\n", "line 2 has 1, and the first 2"),
        ("1,2\n3,4j\n", "line 2 is '3,4j'"),
        ("\n", "it is empty"),
    ],
)
def test_what_are_no_numbers(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_numbers(tmp_path / "t.csv")
