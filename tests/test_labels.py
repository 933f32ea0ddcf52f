"""Names of classes: those that would break a labels.txt, or that nobody could tell apart."""

import pytest

from keras_vit.errors import InputError
from keras_vit.labels import check_class_names, checked_labels, label_problem

BAD = {
    "a line break": "two\nlines",
    "an old line break": "two\rlines",
    "a form feed, where str.splitlines breaks": "a\x0cb",
    "NEL": "a\x85b",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "NUL": "a\0b",
    "an escape sequence": "\x1b[31mred",
    "a tab": "a\tb",
    "right to left": "gpj.\u202etac",
    "a mark for right to left": "cat\u200f",
    "an isolate": "a\u2067b",
    "an undecodable file name": "caf\udce9",
    "nothing": "",
    "spaces": "  ",
    "other spaces": "\u00a0\u3000",
    "a space of no width": "\u200b",
    "a byte order mark, which readers of labels.txt drop": "\ufeffcat",
}
GOOD = ("cat", "Käse, 猫", "a cat; 2", "کتاب\u200cها", "👩\u200d🔬", "'quoted' \"twice\"", "-1", "#")


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_what_is_no_name(name, tmp_path):
    with pytest.raises(InputError, match=r"'data' has a class .*Rename it"):
        check_class_names(["a", name], "data")
    with pytest.raises(InputError, match="label 1 is"):
        checked_labels(["a", name])


def test_names_of_all_languages_come_back_from_a_file(tmp_path):
    assert [label_problem(name) for name in GOOD] == [None] * len(GOOD)
    (tmp_path / "labels.txt").write_text("\n".join(checked_labels(GOOD)) + "\n", encoding="utf-8")
    assert tuple((tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()) == GOOD


def test_names_that_look_the_same():
    for pair in (
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat "),
        ("cat", "ca\u200bt"),
        ("cat", "ca\u00adt"),
        ("a b", "a  b"),
        ("cat", "cat"),
    ):
        with pytest.raises(InputError, match=r"which look the same: rename or merge them"):
            check_class_names(pair, "data")
    check_class_names(("A", "a"), "letters")
    assert checked_labels(["crane", "crane", 3]) == ["crane", "crane", "3"], "as in ImageNet"


@pytest.mark.parametrize("labels", ["cat", b"cat", {"cat": 0}, 3, None, ["cat", None], [b"cat"], [["cat"]]])
def test_what_is_no_list_of_names(labels):
    with pytest.raises(InputError, match="label"):
        checked_labels(labels)
