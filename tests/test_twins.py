"""The scripts share everything that is not the algorithm, to the byte, and nothing by import."""

import ast
import difflib
from itertools import pairwise
from pathlib import Path

import pytest

from benchmark import run

ROOT = Path(__file__).parent.parent
SCRIPTS = [f"{script}.py" for script in run.SCRIPTS]  # in reading order
DAGGERS = ["dagger.py", "hg_dagger.py"]
OWN = {"docstring", "imports", "Policy"}  # parts that belong to the algorithm
DIFF_BUDGETS = [60, 60, 130, 170]  # lines that differ between neighbours, added and removed


def parts(script):
    """The text of a script by part: docstring, imports, then each top-level definition up to the next."""
    source = (ROOT / script).read_text()
    lines, nodes = source.splitlines(keepends=True), ast.parse(source).body
    first = {"docstring": 1}
    for node in nodes[1:]:
        decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
        if isinstance(node, ast.Import | ast.ImportFrom):
            first.setdefault("imports", node.lineno)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            first[node.name] = min([node.lineno, *decorators])
        else:
            first["__main__"] = node.lineno
    bounds = [*first.values(), len(lines) + 1]
    return {name: "".join(lines[a - 1 : b - 1]) for name, (a, b) in zip(first, pairwise(bounds), strict=True)}


def shared_args(text):
    """The fields of Args before the algorithm's own heading, the second of the form `# --- Name ---`."""
    headings = [i for i, line in enumerate(text.splitlines()) if line.strip().startswith("# ---")]
    return text.splitlines()[: headings[1] if len(headings) > 1 else None]


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_shared_parts_are_identical(script):
    reference, other = parts(SCRIPTS[0]), parts(script)
    assert list(reference) == list(other)
    for name in reference:
        if name in OWN:
            continue
        a, b = reference[name].splitlines(), other[name].splitlines()
        if name == "Args":
            a, b = ("\n".join(shared_args(text)).rstrip().splitlines() for text in (reference[name], other[name]))
        assert a == b, "\n" + "\n".join(difflib.unified_diff(a, b, SCRIPTS[0], script, lineterm=""))


def difference(*pair):
    """The lines that differ, added and removed."""
    a, b = ((ROOT / script).read_text().splitlines() for script in pair)
    diff = difflib.unified_diff(a, b, lineterm="", n=0)
    return [line for line in diff if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize("pair, budget", list(zip(pairwise(SCRIPTS), DIFF_BUDGETS, strict=True)), ids=str)
def test_diff_between_neighbours_is_the_algorithm(pair, budget):
    changed = difference(*pair)
    assert len(changed) <= budget, "\n".join(changed)


@pytest.mark.parametrize("script", DAGGERS)
def test_what_the_daggers_have_in_common_is_identical(script):
    """With behaviour cloning, these functions; with each other, training and saved state too."""
    bc, other, twin = parts(SCRIPTS[0]), parts(script), parts(DAGGERS[0])
    for name in ("moments", "fail", "evaluate", "load"):
        assert other[name] == bc[name], name
    for name in ("train", "save", "restore"):
        assert other[name] == twin[name], name
    flags = {line.split(":")[0]: line.split("#")[0] for line in bc["Args"].splitlines() if ": " in line}
    for line in other["Args"].splitlines():
        if line.split(":")[0] in flags:
            assert line.split("#")[0] == flags[line.split(":")[0]]  # the same default


def test_diff_between_the_daggers_is_the_algorithm():
    assert len(difference(*DAGGERS)) <= 210, "\n".join(difference(*DAGGERS))


@pytest.mark.parametrize("script", [*SCRIPTS, *DAGGERS])
def test_a_script_fits_its_size_and_stands_alone(script):
    source = (ROOT / script).read_text()
    assert len(source.splitlines()) <= (350 if script in DAGGERS else 300)
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    local = {path.stem for path in ROOT.glob("*.py")} | {"tests", "benchmark"}
    assert not imported & local
