"""Nothing in the package runs what it reads: no pickle but torch's weights-only reader, no eval, no shell."""

import ast

import pytest
from paths import SCRIPTS


SOURCES = sorted([*SCRIPTS.rglob("*.py"), *SCRIPTS.parent.glob("src/**/*.py")])
# Calls by the last part of their name, and what each would do.
FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "runs text", "__import__": "imports by name",
    "system": "runs a shell", "popen": "runs a shell", "getoutput": "runs a shell", "getstatusoutput": "runs a shell",
    "extractall": "writes where an archive says", "unpack_archive": "writes where an archive says",
    "mktemp": "names a file that others may make", "read_pickle": "unpickles", "full_load": "makes Python's objects",
    "unsafe_load": "makes Python's objects", "load_all": "makes Python's objects",
}  # fmt: skip
# A process of its own runs the code of one published model at a pinned revision: it reads back what was just
# published, with our own code in it.
PINNED_CODE = {"read_back.py: pipeline(trust_remote_code=True)"}
FORBIDDEN_IMPORTS = {"dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile"}


def name_of(node):
    """`torch.load` of a call of that name."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


def faults(tree):
    """What in a source may run what is read."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        name, options = name_of(node.func), {option.arg: option.value for option in node.keywords}
        last = name.rpartition(".")[2]
        is_method = "." in name and name.split(".")[0] not in (
            "os",
            "builtins",
            "subprocess",
            "shutil",
            "pandas",
            "yaml",
        )
        if last in FORBIDDEN and not (is_method and last in ("eval", "compile", "exec")):
            yield f"{name}() {FORBIDDEN[last]}"
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            yield f"{name}() unpickles"
        if name == "torch.load" and getattr(options.get("weights_only"), "value", None) is not True:
            yield "torch.load() without weights_only=True"
        if name == "np.load" and getattr(options.get("allow_pickle"), "value", None) is not False:
            yield "np.load() without allow_pickle=False"
        if name == "yaml.load" and name_of(options.get("Loader")) != "RecipeLoader":
            yield "yaml.load() with another loader than that of recipes"
        if getattr(options.get("trust_remote_code"), "value", False):
            yield f"{name}(trust_remote_code=True)"
        if getattr(options.get("shell"), "value", False):
            yield f"{name}(shell=True)"


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 60
    found = {f"{path.name}: {fault}" for path in SOURCES for fault in faults(ast.parse(path.read_text()))}
    assert found == PINNED_CODE


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "os.system(name)", "torch.load(path)", "torch.load(path, weights_only=False)",
        "pickle.loads(data)", "np.load(path, allow_pickle=True)", "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)", "load(name, trust_remote_code=True)",
        "import tarfile", "archive.extractall(folder)",
    ],
)  # fmt: skip
def test_the_check_sees_what_it_forbids(source):
    assert list(faults(ast.parse(source)))


def test_recipes_make_no_objects_of_python():
    from setr_hf.training.recipes import RecipeLoader

    assert not any(str(tag).startswith("tag:yaml.org,2002:python") for tag in RecipeLoader.yaml_constructors)
