"""What can be checked of the Android project without Google's SDK: its files fit together, and fit an export.

The Kotlin is parsed by tree-sitter's grammar. It is not compiled or built here (mobile_demo/android/README.md
says what else was done by hand).
"""

import importlib.metadata
import json
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tree_sitter_kotlin
from ai_edge_litert.interpreter import Interpreter
from tree_sitter import Language, Parser

from keras_vit.data.image_data import load_data
from keras_vit.export.verification.runners import load_runner

PROJECT = Path(__file__).resolve().parents[2] / "mobile_demo"
ROOT, EXPORTED = PROJECT / "android", PROJECT / "cifar10" / "export"
MAIN = ROOT / "app" / "src" / "main"
KOTLIN = sorted((MAIN / "kotlin").rglob("*.kt"))
XML = sorted(MAIN.rglob("*.xml"))
GRADLE = [ROOT / "settings.gradle.kts", ROOT / "build.gradle.kts", ROOT / "app" / "build.gradle.kts"]
ANDROID = "{http://schemas.android.com/apk/res/android}"
PLACEHOLDER = re.compile(r"%\d\$[.\d]*[a-z]")
PARSER = Parser(Language(tree_sitter_kotlin.language()))


def nodes(source, *types):
    """The syntax nodes of these types in a Kotlin file, a node or a text, from its top to its end."""
    if isinstance(source, Path):
        source = source.read_text(encoding="utf-8")
    node = PARSER.parse(source.encode()).root_node if isinstance(source, str) else source
    stack, found = [node], []
    while stack:
        node = stack.pop()
        if node.is_named and node.type in types:
            found.append(node)
        stack += reversed(node.children)
    return found


def text(node):
    return node.text.decode()


def string_literals(path):
    """The texts of a Kotlin file's string literals."""
    return [text(node) for node in nodes(path, "string_content")]


def constants(path):
    """{name: value} of its `private const val NAME = "value"`."""
    return {
        text(nodes(node, "identifier")[0]): text(nodes(node, "string_content")[0])
        for node in nodes(path, "property_declaration")
        if "const" in text(node).split() and nodes(node, "string_content")
    }


def resource_names(path):
    """{(type, name)} of the `R.type.name` of a Kotlin file; Android's own `android.R` is none of them."""
    parts = [text(node).split(".") for node in nodes(path, "navigation_expression")]
    return {(kind, name) for start, kind, name in (p for p in parts if len(p) == 3) if start == "R"}


def calls(path):
    """[(what is called, its arguments)] of a Kotlin file."""
    found = []
    for node in nodes(path, "call_expression", "constructor_invocation"):
        arguments = [child for child in node.children if child.type == "value_arguments"]
        if arguments:
            values = [text(child) for child in arguments[0].children if child.type == "value_argument"]
            found.append((text(node.children[0]), values))
    return found


def strings(folder):
    root = ElementTree.parse(MAIN / "res" / folder / "strings.xml").getroot()
    return {element.get("name"): element.text for element in root}


def resources():
    """{"string": names, "id": names, ...} of everything under res/."""
    names = {"string": set(strings("values")), "id": set()}
    for path in XML:
        if path.parent.name in ("layout", "drawable"):
            names.setdefault(path.parent.name, set()).add(path.stem)
        names["id"] |= set(re.findall(r'"@\+id/(\w+)"', path.read_text(encoding="utf-8")))
    return names


def test_there_is_something_to_check():
    assert len(KOTLIN) == 4 and len(XML) == 5


@pytest.mark.parametrize("path", [*KOTLIN, *GRADLE], ids=lambda path: path.name)
def test_kotlin_parses(path):
    root = PARSER.parse(path.read_bytes()).root_node
    assert not root.has_error, [node.start_point for node in nodes(root, "ERROR")]
    assert PARSER.parse(path.read_bytes().replace(b"(", b"", 1)).root_node.has_error  # the parser can tell


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
        for kind, name in resource_names(path):
            assert name in there[kind], (path.name, kind, name)
            used.add((kind, name))
    in_xml = {
        name for path in XML for name in re.findall(r'"@string/(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert there["string"] == in_xml | {name for kind, name in used if kind == "string"}
    assert there["id"] == {name for kind, name in used if kind == "id"}


def test_sentences_get_as_many_words_as_they_have_places():
    texts, checked = strings("values"), set()
    for path in KOTLIN:
        for called, arguments in calls(path):
            if called in ("Trouble", "getString") and arguments[0].startswith("R.string."):
                name = arguments[0].removeprefix("R.string.")
                places = {place[1] for place in PLACEHOLDER.findall(texts[name])}
                assert len(arguments) - 1 == len(places), (path.name, name)
                checked.add(name)
    in_code = {name for path in KOTLIN for kind, name in resource_names(path) if kind == "string"}
    assert checked == in_code  # none is used in another way


def test_packages_match_folders_and_the_manifest_names_an_activity_that_exists():
    namespace = re.search(r'namespace = "([\w.]+)"', GRADLE[2].read_text())[1]
    for path in KOTLIN:
        (package,) = (text(node.children[1]) for node in nodes(path, "package_header"))
        assert package.split(".") == list(path.parent.relative_to(MAIN / "kotlin").parts)
        assert package == namespace  # so that R needs no import
    application = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot().find("application")
    (activity,) = application.iter("activity")
    assert activity.get(f"{ANDROID}exported") == "true"  # or no launcher may start it, from Android 12 on
    name = activity.get(f"{ANDROID}name").removeprefix(".")
    file = MAIN / "kotlin" / namespace.replace(".", "/") / f"{name}.kt"
    supers = {
        text(nodes(node, "identifier")[0]): text(nodes(node, "delegation_specifier")[0])
        for node in nodes(file, "class_declaration")
        if nodes(node, "delegation_specifier")
    }
    assert supers[name] == "ComponentActivity()"


def test_the_app_asks_for_the_permissions_of_its_manifest():
    root = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot()
    declared = {element.get(f"{ANDROID}name") for element in root.iter("uses-permission")}
    asked = {
        f"android.permission.{text(node).removeprefix('Manifest.permission.')}"
        for path in KOTLIN
        for node in nodes(path, "navigation_expression")
        if text(node).startswith("Manifest.permission.")
    }
    assert declared == asked == {"android.permission.CAMERA"}


def test_views_of_the_layout_are_of_the_classes_that_the_code_asks_for():
    layout = ElementTree.parse(MAIN / "res/layout/main.xml").getroot()
    views = {element.get(f"{ANDROID}id"): element.tag.rpartition(".")[2] for element in layout.iter()}
    # By its text, as the grammar takes some of these calls for comparisons, a < b > (c).
    sources = "".join(path.read_text(encoding="utf-8") for path in KOTLIN)
    asked = re.findall(r"findViewById<(\w+)>\(R\.id\.(\w+)\)", sources)
    assert len(asked) == 4
    for view, name in asked:
        assert views[f"@+id/{name}"] == view


def test_every_import_is_used():
    for path in KOTLIN:
        root = PARSER.parse(path.read_bytes()).root_node
        body = [child for child in root.children if child.type not in ("import", "package_header")]
        used = {text(name) for child in body for name in nodes(child, "identifier")}
        imported = {text(nodes(node, "identifier")[-1]) for node in nodes(root, "import")}
        assert imported <= used, path.name


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
    # LiteRT is the one that files are checked with here.
    numbers = {
        name: int(re.search(rf"{name} = (\d+)", build)[1]) for name in ("minSdk", "targetSdk", "compileSdk")
    }
    assert numbers["minSdk"] <= numbers["targetSdk"] <= numbers["compileSdk"]
    assert catalog["versions"]["litert"] == importlib.metadata.version("ai-edge-litert")


FILES = sorted(EXPORTED.glob("*.tflite"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_exported_file_has_the_signature_that_the_classifier_asks_for(path):
    names = constants(MAIN / "kotlin/kerasvit/demo/Classifier.kt")
    runner = Interpreter(str(path)).get_signature_runner(names["SIGNATURE"])
    ((name, image),) = runner.get_input_details().items()
    classes = runner.get_output_details()[names["PROBABILITY"]]  # perhaps beside the rollout
    assert name == names["INPUT"]
    assert image["dtype"] == classes["dtype"] == np.float32
    # What Classifier.kt refuses: `picture.size != 4 || picture[0] != 1 || picture[3] != 3`.
    assert len(image["shape"]) == 4 and image["shape"][0] == 1 and image["shape"][3] == 3
    assert classes["shape"][-1] == len((EXPORTED / "labels.txt").read_text().splitlines())


def test_the_manifest_of_an_export_has_what_the_app_reads():
    path = MAIN / "kotlin/kerasvit/demo/Exported.kt"
    read = set(string_literals(path))
    getters = ("getString", "getJSONArray", "optJSONObject", "has", "isNull")
    keys = {
        arguments[0].strip('"')
        for called, arguments in calls(path)
        if called.rpartition(".")[2] in getters and arguments[0].startswith('"')
    }
    assert keys == {"inputs", "artifacts", "name", "activation"}
    assert {"labels.txt", "manifest.json", ".tflite"} == read - keys
    manifest = json.loads((EXPORTED / "manifest.json").read_text())
    assert "inputs" not in manifest  # which only those of several modalities have
    assert [entry["name"] for entry in manifest["artifacts"]]
    assert {entry["name"] for entry in manifest["artifacts"] if entry["name"].endswith(".tflite")} == {
        file.name for file in FILES
    }
    assert manifest.get("activation", "softmax") == "softmax"


def test_a_file_takes_the_pixels_that_fit_gives():
    """`fit` gives 0..255 in rows, red first, and neither scales nor normalises: that is inside the file."""
    (result,) = (
        node
        for node in nodes(MAIN / "kotlin/kerasvit/demo/Fit.kt", "function_declaration")
        if text(nodes(node, "identifier")[0]) == "fit"
    )
    assert "pixels[y * width * 3 + x] = byte(sum).toFloat()" in [text(n) for n in nodes(result, "assignment")]
    pixels = load_data("digits", (32, 32)).test.images[::40]
    interpreter = Interpreter(str(EXPORTED / "float32.tflite")).get_signature_runner("serving_default")
    answers = [interpreter(image=x[None].astype("float32"))["probability"][0] for x in pixels]
    expected = load_runner(EXPORTED / "keras" / "float32.keras").predict(pixels)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    normalised = [interpreter(image=x[None].astype("float32") / 255)["probability"][0] for x in pixels]
    assert np.abs(normalised - expected).max() > 0.1
