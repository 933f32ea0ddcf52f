"""What can be checked of the Android project without Google's SDK: its files fit together, and fit an export.

It is not built here (mobile_demo/android/README.md says what else was done by hand).
"""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from keras_vit.export import directory
from keras_vit.export.verification import manifest, runners

ROOT = Path(__file__).resolve().parents[2] / "mobile_demo" / "android"
MAIN = ROOT / "app" / "src" / "main"
KOTLIN = sorted((MAIN / "kotlin").rglob("*.kt"))
XML = sorted(MAIN.rglob("*.xml"))
GRADLE = [ROOT / "settings.gradle.kts", ROOT / "build.gradle.kts", ROOT / "app" / "build.gradle.kts"]
ANDROID = "{http://schemas.android.com/apk/res/android}"
PLACEHOLDER = re.compile(r"%\d\$[.\d]*[a-z]")


def code(path):
    """A Kotlin file without its comments and strings, the code inside "${...}" included in neither."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', '""', text, flags=re.DOTALL)


def named(path):
    """What a Kotlin file's strings are, without those in comments."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r'"((?:\\.|[^"\\\n])*)"', text)


def strings(folder):
    root = ElementTree.parse(MAIN / "res" / folder / "strings.xml").getroot()
    return {element.get("name"): element.text for element in root}


def resources():
    """{"string": names, "id": names, ...} of everything under res/."""
    found = {"string": set(strings("values")), "id": set()}
    for path in XML:
        if path.parent.name in ("layout", "drawable"):
            found.setdefault(path.parent.name, set()).add(path.stem)
        found["id"] |= set(re.findall(r'"@\+id/(\w+)"', path.read_text(encoding="utf-8")))
    return found


def test_there_is_something_to_check():
    assert len(KOTLIN) == 4 and len(XML) == 5


@pytest.mark.parametrize("path", [*KOTLIN, *GRADLE], ids=lambda path: path.name)
def test_brackets_balance(path):
    opened = []
    for character in code(path):
        if character in "([{":
            opened.append(character)
        elif character in ")]}":
            assert opened and opened.pop() + character in ("()", "[]", "{}")
    assert opened == []


def test_xml_is_well_formed_and_refers_to_what_exists():
    there = resources()
    for path in XML:
        for element in ElementTree.parse(path).getroot().iter():
            for value in element.attrib.values():
                kind, name = re.fullmatch(r"@(?:(\w+)/(\w+))?.*|[^@].*", value, re.DOTALL).groups()
                assert kind is None or name in there[kind], (path.name, value)


def test_both_languages_say_the_same_things():
    english, chinese = strings("values"), strings("values-zh")
    assert list(english) == list(chinese)
    for name, text in english.items():
        assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(chinese[name])), name
        assert re.search("[\u4e00-\u9fff]", chinese[name]) or name in ("row", "logit")
        assert "'" not in text  # the resource compiler wants it escaped


def test_kotlin_uses_only_resources_that_exist_and_all_strings_are_used():
    there, used = resources(), set()
    for path in KOTLIN:
        for kind, name in re.findall(r"(?<![\w.])R\.(\w+)\.(\w+)", code(path)):
            assert name in there[kind], (path.name, kind, name)
            used.add((kind, name))
    in_xml = {
        name for path in XML for name in re.findall(r'"@string/(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert there["string"] == in_xml | {name for kind, name in used if kind == "string"}
    assert there["id"] == {name for kind, name in used if kind == "id"}


def test_sentences_get_as_many_words_as_they_have_places():
    texts = strings("values")
    for path in KOTLIN:
        text = path.read_text(encoding="utf-8")
        for name, words in re.findall(r"(?:Trouble|getString)\(R\.string\.(\w+)((?:, [^\n]*)?)\)", text):
            commas = words.count(", ")
            places = {place[1] for place in PLACEHOLDER.findall(texts[name])}
            assert commas == len(places), (path.name, name)


def test_packages_match_folders_and_the_manifest_names_a_class_that_exists():
    namespace = re.search(r'namespace = "([\w.]+)"', GRADLE[2].read_text())[1]
    for path in KOTLIN:
        package = re.search(r"(?m)^package ([\w.]+)$", path.read_text(encoding="utf-8"))[1]
        assert package.split(".") == list(path.parent.relative_to(MAIN / "kotlin").parts)
        assert package == namespace  # so that R needs no import
    application = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot().find("application")
    for activity in application.iter("activity"):
        name = activity.get(f"{ANDROID}name").removeprefix(".")
        file = MAIN / "kotlin" / namespace.replace(".", "/") / f"{name}.kt"
        assert re.search(rf"\bclass {name}\b", file.read_text(encoding="utf-8"))


def test_views_of_the_layout_are_of_the_classes_that_the_code_asks_for():
    layout = ElementTree.parse(MAIN / "res/layout/main.xml").getroot()
    views = {element.get(f"{ANDROID}id"): element.tag for element in layout.iter()}
    asked = re.findall(r"findViewById<(\w+)>\(R\.id\.(\w+)\)", "".join(map(code, KOTLIN)))
    assert len(asked) == 4
    for kind, name in asked:
        assert views[f"@+id/{name}"].rpartition(".")[2] == kind


def test_every_import_is_used():
    for path in KOTLIN:
        imports, body = [], []
        for line in code(path).splitlines():
            (imports if line.startswith("import ") else body).append(line)
        for line in imports:
            assert re.search(rf"\b{line.rpartition('.')[2]}\b", "\n".join(body)), (path.name, line)


def test_gradle_takes_versions_from_the_catalog_and_libraries_from_google_and_central():
    catalog = tomllib.loads((ROOT / "gradle" / "libs.versions.toml").read_text())
    entries = [*catalog["libraries"].values(), *catalog["plugins"].values()]
    assert {entry["version"]["ref"] for entry in entries} == set(catalog["versions"])
    there = set(catalog["libraries"]) | {f"plugins.{name}" for name in catalog["plugins"]}
    build = "".join(path.read_text() for path in GRADLE[1:])
    used = {name.rstrip(".") for name in re.findall(r"\blibs\.([\w.]+)", build)}
    assert used == {name.replace("-", ".") for name in there}
    # Neither a version nor an address outside the catalog.
    for path in GRADLE:
        text = path.read_text()
        assert "://" not in text and not re.search(r'"[\w.-]+:[\w.-]+:[\d.]+"', text)
    blocks = re.findall(r"repositories \{(.*?)\}", GRADLE[0].read_text(), re.DOTALL)
    assert [block.split() for block in blocks] == [["google()", "mavenCentral()"]] * 2


def test_the_app_reads_what_an_export_writes():
    words = {path.name: named(path) for path in KOTLIN}
    assert {runners.SIGNATURE, runners.INPUT, *runners.OUTPUTS} <= set(words["Classifier.kt"])
    read = set(words["Exported.kt"]) - {""}
    assert {"labels.txt", "manifest.json", ".tflite"} < read
    written = Path(directory.__file__).read_text(encoding="utf-8")
    for name in ("labels.txt", "manifest.json", ".tflite"):
        assert f'{name}"' in written
    keys = read - {"labels.txt", "manifest.json", ".tflite"}
    assert keys == {"inputs", "artifacts", "name", "activation"}
    assert all(f'"{key}"' in manifest.__doc__ for key in keys)
