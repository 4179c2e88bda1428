"""The rules about the shape of the source: what it exports, what it imports, how large it is."""

import ast
import importlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar, TypeVarTuple

import pytest

import clarion

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clarion"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
]

# Imports go down this list only: a layer may import itself and what stands below it.
LAYERS = (
    {"cli", "tasks", "transformers", "utils"},
    {"experiment"},
    {"model"},
    {"engine"},
    {"callbacks", "checkpoints", "data", "distributed", "layers", "loggers", "metrics"},
    {"_version", "arguments", "console", "errors"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = (
    "colorama",
    "datasets",
    "matplotlib",
    "mlflow",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "transformers",
    "wandb",
)

each_file = pytest.mark.parametrize("file", FILES, ids=MODULES)


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def walk_at_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree, passing by what only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if is_type_checking(node) and child not in node.orelse:
            continue
        yield from walk_at_runtime(child)


def imported_names(file: Path) -> set[str]:
    """Return the dotted names that the file imports at runtime, inside functions too."""
    names: set[str] = set()
    package = ".".join(file.relative_to(SOURCE.parent).parent.parts)
    for node in walk_at_runtime(parse(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def layer_of(name: str) -> str | None:
    """Return the part of clarion that a dotted name lies in; None outside, "" for the top."""
    parts = name.split(".")
    if parts[0] != "clarion":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else ""


def public_definitions(module: ModuleType, file: Path) -> set[str]:
    """Return the public names that the module itself defines: functions, classes, constants."""
    names = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__name__")
    }
    for node in parse(file).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    generic = (TypeVar, TypeVarTuple, ParamSpec)
    return {
        name
        for name in names
        if not name.startswith("_") and not isinstance(vars(module).get(name), generic)
    }


def reexported_names(file: Path) -> set[str]:
    """Return the names that a package takes over from its modules."""
    imports = [node for node in parse(file).body if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if node.level or (node.module or "").startswith("clarion")]
    names = {alias.asname or alias.name for node in own for alias in node.names}
    return {name for name in names if not re.match("_[^_]", name)}


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


# --- what is exported ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), list(zip(MODULES, FILES, strict=True)), ids=MODULES)
def test_a_module_exports_what_it_defines(name: str, file: Path) -> None:
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    assert len(exported) == len(set(exported)), "a name is listed twice"
    assert [name for name in exported if not hasattr(module, name)] == []
    expected = public_definitions(module, file)
    if file.name == "__init__.py":
        expected |= {name for name in vars(module) if name in reexported_names(file)}
    assert expected - set(exported) == set()


def test_the_top_level_offers_what_its_all_lists() -> None:
    assert set(clarion.__all__) <= set(dir(clarion))
    for name in clarion.__all__:
        value = getattr(clarion, name)
        origin = sys.modules[getattr(value, "__module__", "clarion")]
        assert name in origin.__all__ or not origin.__name__.startswith("clarion."), name


def test_the_stub_offers_the_same_as_the_top_level() -> None:
    assert reexported_names(SOURCE / "__init__.pyi") == set(clarion.__all__)


def test_every_public_name_is_documented() -> None:
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
    documented = re.findall(
        r"^\.\. (?:auto\w+|py:\w+):: (\w+)(?:\(.*\))?$", "\n".join(pages), re.MULTILINE
    )
    assert len(documented) == len(set(documented)), "a name stands on two pages"
    errors = {
        name for name in clarion.__all__ if is_error(getattr(clarion, name))
    }  # docs/errors.md
    assert set(documented) | errors == set(clarion.__all__) - {"__version__"}


def test_an_unknown_top_level_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Experimnt"):
        clarion.Experimnt  # noqa: B018


# --- how it is written -----------------------------------------------------------------------


@each_file
def test_a_file_is_short_and_says_what_it_is_for(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
    docstring = ast.get_docstring(parse(file)) or ""
    sentence = docstring.split("\n\n")[0]
    assert "\n" not in sentence, "the first sentence fits on one line"
    assert sentence.endswith(".")
    assert ". " not in sentence, "one sentence"


@each_file
def test_nothing_is_left_to_do(file: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", file.read_text(encoding="utf-8"))


@each_file
def test_only_the_console_prints(file: Path) -> None:
    calls = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    prints = [call.lineno for call in calls if ast.unparse(call.func) == "print"]
    assert file.name == "console.py" or prints == []


@each_file
def test_nothing_that_is_read_can_execute(file: Path) -> None:
    unsafe = {"cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert {name for name in imported_names(file) if name.split(".")[0] in unsafe} == set()
    # torch.load raises this one error of the module; it is good for nothing else here.
    pickled = re.findall(r"\bpickle\.(\w+)", ast.unparse(parse(file)))
    pickled += [name for name in imported_names(file) if name.startswith("pickle.")]
    assert set(pickled) <= {"UnpicklingError", "pickle.UnpicklingError"}
    for call in (node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)):
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        where = f"{file.name}:{call.lineno}"
        assert keywords.get("weights_only", "True") == "True", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert "pickle_module" not in keywords, where
        if ast.unparse(call.func) == "torch.load":
            assert "weights_only" in keywords, f"{where}: say weights_only=True"


# --- what imports what -----------------------------------------------------------------------


@each_file
def test_imports_go_down(file: Path) -> None:
    own = layer_of(".".join(file.relative_to(SOURCE.parent).with_suffix("").parts))
    if own == "":
        assert file == SOURCE / "__init__.py", f"give {file.name} a place in LAYERS"
        return
    for name in imported_names(file):
        other = layer_of(name)
        assert other != "", f"{name}: the top level imports the layers, not the other way round"
        if other is not None:
            assert LEVEL[other] >= LEVEL[own], f"{own} imports {name}, which stands above it"


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {name: set() for name in LEVEL}
    for file in FILES:
        own = layer_of(".".join(file.relative_to(SOURCE.parent).with_suffix("").parts))
        if own:
            below[own] |= {layer_of(name) or own for name in imported_names(file)} - {own}
    while free := {name for name, imports in below.items() if not imports & below.keys()}:
        below = {name: imports for name, imports in below.items() if name not in free}
    assert {name: imports & below.keys() for name, imports in below.items()} == {}


@pytest.mark.parametrize("imports", ["clarion", "all modules"])
def test_importing_is_light(imports: str) -> None:
    names = ["clarion"] if imports == "clarion" else MODULES
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == []


def test_importing_the_top_level_does_not_import_torch() -> None:
    program = "import clarion, sys; print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"


# --- what is shipped -------------------------------------------------------------------------


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_everything_in_the_readme_that_looks_like_python_runs() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    for block in blocks:
        assert block.startswith(">>> "), f"pytest runs only doctests; this is none:\n{block}"


def test_every_dependency_is_pinned_for_the_makefile() -> None:
    def package(line: str) -> str:
        return re.split(r"[\[<>=~! ]", line)[0].lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {package(line) for line in project["dependencies"]}
    wanted |= {package(line) for name in extras.keys() - {"tune"} for line in extras[name]}
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {package(line) for line in pins if "==" in line}
    assert wanted - {"clarion"} - pinned == set()


def test_temporary_files_of_tests_go_where_pytest_tidies_up(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = tmp_path_factory.getbasetemp()
    if len(str(base)) > 60:
        pytest.skip("the names of sockets in there would be too long")
    program = "import tempfile; print(tempfile.gettempdir())"
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for directory in (tempfile.gettempdir(), child.stdout.strip()):
        assert Path(directory).is_relative_to(base)
