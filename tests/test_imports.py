"""The import graph, read from the source: no circle, and every arrow as DESIGN.md, section 2 draws it.

Imports inside functions count like those at the top of a file: they are there for what is slow to import
(TensorFlow, matplotlib), not to hide a circle or an arrow that runs up.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"keras_vit": "keras_vit", "export": "keras_vit.export", "mobile_demo": "keras_vit.mobile_demo"}

# From the top down: a module imports from its own floor and from those below.
FLOORS = [
    {"cli", "commands"},
    {"export", "scenarios", "mobile_demo"},
    {"training"},
    {"inspect", "distributed", "data"},
    {"models"},
    {"modalities", "weights"},
    {"layers", "losses"},
    {"config", "formats", "old_names"},
    # For every room. `keras_vit` itself holds the version, and loads its public names when asked for one.
    {"keras_vit", "files", "labels", "answers", "processes", "registration", "mixin", "_compat", "errors"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    """{module: its file}."""
    files = {}
    for folder, package in PACKAGES.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in file.parts:
                parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
                files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def lazy_names(tree):
    """The `_MODULE_OF` of a package, whose `__getattr__` imports them: {public name: its module}."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_MODULE_OF":
            return ast.literal_eval(node.value)
    return {}


def imports(tree, module, is_package, known, lazy=None):
    """{(one of the `known` modules, line)} that a module imports, at its top or inside its functions.

    Args:
        tree: its syntax tree.
        is_package: whether it is an `__init__.py`.
        known: names of modules.
        lazy: {package: `lazy_names`}.
    """
    arrows = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) + is_package - node.level]
                base = ".".join([*parts, *filter(None, [node.module])])
            names = [alias.name for alias in node.names]
            targets = [
                f"{base}.{name}" if f"{base}.{name}" in known else (lazy or {}).get(base, {}).get(name, base)
                for name in names
            ]
        else:
            continue
        arrows |= {(target, node.lineno) for target in targets if target in known and target != module}
    return arrows


def graph():
    """{module: {(module that it imports, line)}}."""
    files = modules()
    trees = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in files.items()}
    lazy = {module: lazy_names(tree) for module, tree in trees.items()}
    return {
        module: imports(tree, module, files[module].name == "__init__.py", files, lazy)
        for module, tree in trees.items()
    }


def circles(arrows):
    """The strongly connected groups of {module: {(module, line)}}, of two modules or more (Tarjan 1972)."""
    number, lowest, stack, groups = {}, {}, [], []

    def visit(module):
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target, _ in sorted(arrows[module]):
            if target not in number:
                visit(target)
            if target in stack:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in arrows:
        if module not in number:
            visit(module)
    return groups


def room(module):
    """ "data" of "keras_vit.data.index"; "keras_vit" of itself."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] or package if package == "keras_vit" else package


def upward(arrows):
    return [
        f"{module}, line {line}: {target}"
        for module, targets in arrows.items()
        for target, line in sorted(targets)
        if FLOOR[room(target)] < FLOOR[room(module)]
    ]


@pytest.fixture(scope="module")
def arrows():
    return graph()


def test_every_room_has_its_floor(arrows):
    assert {room(module) for module in arrows} - set(FLOOR) == set()
    assert len(arrows) > 150 and sum(map(len, arrows.values())) > 500  # it found the imports


def test_no_circle(arrows):
    assert circles(arrows) == []


def test_no_import_runs_up(arrows):
    assert upward(arrows) == []


def test_circles_and_arrows_are_found():
    known = {"keras_vit", "keras_vit.layers", "keras_vit.layers.a", "keras_vit.models.b", "keras_vit.models"}
    lazy = {"keras_vit": {"ViT": "keras_vit.models.b"}}

    def found(source, module, is_package=False):
        return {name for name, _ in imports(ast.parse(source), module, is_package, known, lazy)}

    below = "keras_vit.layers.a"
    for source in (
        "import keras_vit.models.b",
        "from keras_vit.models import b",
        "from keras_vit.models.b import ViT",
        "from ..models.b import ViT",
        "from ..models import b",
        "from keras_vit import ViT",  # through its __getattr__
        "def f():\n    from keras_vit.models.b import ViT",
        "if True:\n    class A:\n        import keras_vit.models.b as other",
    ):
        assert found(source, below) == {"keras_vit.models.b"}, source
    assert found("from .a import x", "keras_vit.layers", is_package=True) == {below}
    assert found("from keras_vit import __version__", below) == {"keras_vit"}
    assert found("import keras, os\nfrom numpy import x", below) == set()

    up = {"keras_vit.layers.a": {("keras_vit.models.b", 3)}, "keras_vit.models.b": set()}
    assert upward(up) == ["keras_vit.layers.a, line 3: keras_vit.models.b"] and circles(up) == []
    down = {"keras_vit.models.b": {("keras_vit.layers.a", 3)}, "keras_vit.layers.a": set()}
    assert upward(down) == [] and circles(down) == []
    three = {"a": {("b", 1)}, "b": {("c", 1)}, "c": {("a", 1), ("d", 1)}, "d": set()}
    assert circles(three) == [["a", "b", "c"]]


PROGRAM = re.compile(r"(?m)(?:^|[\"';])[ >]*from (keras_vit[\w.]*) import (\([^)]*\)|[^\n;#\"'\\]*)")
QUOTED = re.compile(r"[\"'](keras_vit(?:\.\w+)+)[\"']")


def test_programs_in_strings_and_documents_import_what_exists():
    """What other processes run, and what a reader copies: no linter looks into these."""
    files = modules()
    texts = {module: file.read_text(encoding="utf-8") for module, file in files.items()}
    lazy = {module: lazy_names(ast.parse(text)) for module, text in texts.items()}
    paths = [
        *ROOT.glob("*.md"),
        *(ROOT / "tests").rglob("*.py"),
        *files.values(),
        *(ROOT / "docs").rglob("*.md"),
    ]
    checked, wrong = 0, []
    for path in set(paths) - {Path(__file__).resolve()}:
        text = path.read_text(encoding="utf-8")
        for module, names in PROGRAM.findall(text):
            for name in re.findall(r"(\w+)(?: as \w+)?", names):
                checked += 1
                known = f"{module}.{name}" in files or name in lazy.get(module, ())
                if not known and not re.search(rf"\b{name}\b", texts.get(module, "")):
                    wrong.append((path.name, module, name))
        for name in QUOTED.findall(text):
            # A module; something in one; or a whole package, as a prefix.
            if name not in files and name.rpartition(".")[0] not in files:
                wrong.append((path.name, name, ""))
    assert wrong == [] and checked > 1000


MENTION = re.compile(r"`([a-z_]+(?:\.\w+)+)`")
VARIABLES = {
    "data.train",
    "data.val",
    "data.test",
    "data.choosing",
    "recipe.variant",
    "layer.depth",
}  # attributes, not modules


def test_what_docstrings_mention_exists():
    """`export.quantization.spec` is a module, `scores.divergence` is in one, `stems.py` is a file."""
    files = modules()
    texts = {module: file.read_text(encoding="utf-8") for module, file in files.items()}
    lazy = {module: lazy_names(ast.parse(text)) for module, text in texts.items()}
    by_last_name = {}
    for module in files:
        by_last_name.setdefault(module.rpartition(".")[2], []).append(module)
    file_names = {path.name for path in files.values()}

    def exists(name):
        base, _, last = name.rpartition(".")
        if last == "py":
            return f"{base}.py" in file_names
        whole = name if name.startswith("keras_vit") else f"keras_vit.{name}"
        homes = [whole.rpartition(".")[0], *by_last_name.get(base, [])]
        return (
            whole in files
            or any(module.endswith(f".{name}") for module in files)
            or any(
                last in lazy.get(home, ()) or re.search(rf"\b{last}\b", texts.get(home, "")) for home in homes
            )
        )

    rooms = {part for module in files for part in module.split(".")}
    checked, wrong = 0, []
    for path in files.values():
        for name in MENTION.findall(path.read_text(encoding="utf-8")):
            first = name.split(".")[0]
            if name in VARIABLES or first == "model" or not (first in rooms or name.endswith(".py")):
                continue
            checked += 1
            if not exists(name):
                wrong.append((path.name, name))
    assert wrong == [] and checked > 60
