"""The scripts share everything that is not the algorithm, to the letter, and nothing by import."""

import ast
import difflib
import functools
import re
from pathlib import Path

import pytest

from tests import style

ROOT = Path(__file__).parent.parent
BC_SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
DAGGERS = ["dagger", "hg_dagger"]
SCRIPTS = [*BC_SCRIPTS, *DAGGERS]
CHUNKS = ["bc_diffusion", "bc_flow"]
SAMPLERS = ["bc_gaussian", "bc_mog", "bc_autoregressive"]

# Definitions that bear one name in several scripts are identical, except in these groups of
# scripts: each group has a text of its own. Only the algorithm explains a difference.
ALLOWED = {
    "make_envs": [
        ["bc_autoregressive"],  # takes Discrete and MultiDiscrete actions too
        DAGGERS,  # take Discrete actions too
    ],
    "rollout": [CHUNKS],  # a new episode begins with a chunk of its own
    "collect_demonstrations": [DAGGERS],  # --demo-env-id, and no held-out demonstrations
    "to_tensors": [
        ["bc_autoregressive"],  # a Discrete action is an action of one dimension
        CHUNKS,  # chunks of actions
        DAGGERS,  # --label-every, and integer labels
    ],
    "evaluate": [
        SAMPLERS,  # draw actions, from a seed of their own
        CHUNKS,  # draw actions too, and clear their queue
    ],
    "record_videos": [
        CHUNKS,  # clear their queue
    ],
    "describe": [
        ["dagger"],  # counts labels round by round
        ["hg_dagger"],  # keeps its doubts and tau as well
    ],
    "train": [
        CHUNKS,  # the moving average, and chunks
        ["dagger"],  # only the gradient steps of one round
        ["hg_dagger"],  # the same, while a person waits
    ],
    "parse_args": [DAGGERS],  # --resume
    "load_weights": [DAGGERS],  # --resume
    "report": [DAGGERS],  # the number of labels is part of the result
    "make_policy": [  # the arguments of the policy
        ["bc_gaussian"],
        ["bc_mog"],
        ["bc_autoregressive"],
        ["bc_diffusion"],
        ["bc_flow"],
        ["hg_dagger"],
    ],
    "main": [
        ["dagger"],  # --resume, and rounds in place of one training
        ["hg_dagger"],  # the person at the keyboard
    ],
    "drive": [["hg_dagger"]],  # who acts and what becomes a label: the algorithm itself
    "save": [],
    "read_saved": [],
}
OWN = {"Args", "Policy"}  # checked below, or the algorithm

# Lines that differ, added and removed, a bit above the figure of 2026-11.
DIFF_BUDGETS = {
    ("bc_mse", "bc_gaussian"): 75,
    ("bc_gaussian", "bc_mog"): 90,
    ("bc_mog", "bc_autoregressive"): 190,
    ("bc_mog", "bc_diffusion"): 280,
    ("bc_diffusion", "bc_flow"): 140,
    ("bc_mse", "dagger"): 390,  # DAgger holds no demonstrations out, and keeps every n-th label
    ("dagger", "hg_dagger"): 265,
}

# Fields of Args whose default or comment differs between scripts that have them.
DIFFERENT_FIELDS = {
    "num_demos",  # behaviour cloning holds out a tenth as many on top
    "dataset",  # DAgger only begins with it
    "num_updates",  # shared by the rounds
}


@functools.cache
def source_of(script):
    return (ROOT / f"{script}.py").read_text()


@functools.cache
def definitions(script):
    """The text of each definition and constant at the top level, in order."""
    source = source_of(script)
    texts = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            texts[node.name] = ast.get_source_segment(source, node)
        if isinstance(node, ast.Assign):
            texts[node.targets[0].id] = ast.get_source_segment(source, node)
    return texts


def groups_of(name):
    """The scripts that have this definition, in groups of one text each."""
    by_text = {}
    for script in SCRIPTS:
        texts = definitions(script)
        if name in texts:
            by_text.setdefault(texts[name], []).append(script)
    return by_text


NAMES = sorted({name for script in SCRIPTS for name in definitions(script)} - OWN)


@pytest.mark.parametrize("name", NAMES)
def test_definitions_of_one_name_are_identical(name):
    by_text = groups_of(name)
    found = sorted(by_text.values())
    having = [script for group in found for script in group]
    expected = [[s for s in group if s in having] for group in ALLOWED.get(name, [])]
    apart = [script for group in expected for script in group]
    rest = [script for script in SCRIPTS if script in having and script not in apart]
    if rest:
        expected.append(rest)
    texts = list(by_text)
    diffs = [difference(texts[0], text) for text in texts[1:]]
    assert found == sorted(expected), "\n\n".join(diffs)


def difference(a, b):
    """The lines that differ, added and removed."""
    diff = difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=0)
    changed = [line for line in diff if line[0] in "+-" and line[:3] not in ("+++", "---")]
    return "\n".join(changed)


@pytest.mark.parametrize("pair", DIFF_BUDGETS, ids="-".join)
def test_the_diff_between_neighbours_is_the_algorithm(pair):
    changed = difference(source_of(pair[0]), source_of(pair[1]))
    assert len(changed.splitlines()) <= DIFF_BUDGETS[pair], changed


@pytest.mark.parametrize("scripts", [BC_SCRIPTS, DAGGERS], ids=["bc", "daggers"])
def test_definitions_have_the_same_order(scripts):
    names = [list(definitions(script)) for script in scripts]
    for other in names[1:]:
        shared = [name for name in other if name in names[0]]
        assert shared == [name for name in names[0] if name in other]
    if scripts is BC_SCRIPTS:
        assert all(other == names[0] for other in names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_algorithm_comes_first_and_main_last(script):
    names = list(definitions(script))
    assert names[:2] == ["Args", "Policy"]
    assert names[-1] == "main"
    assert source_of(script).endswith('\n\nif __name__ == "__main__":\n    main(parse_args())\n')


# --- Args ---


def fields(script):
    """Type, default and comment of each field of Args."""
    body = definitions(script)["Args"]
    found = {}
    for line in body.splitlines():
        match = re.fullmatch(r"    (\w+): (.+?) = (.+?)(?:  # (.*))?", line)
        if match:
            found[match[1]] = match.groups()[1:]
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_field_of_args_was_read(script):
    (tree,) = ast.parse(definitions(script)["Args"]).body
    annotated = [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert list(fields(script)) == annotated
    assert len(annotated) > 15


def test_shared_fields_of_args_have_one_type_one_default_and_one_comment():
    seen = {}
    different = set()
    for script in SCRIPTS:
        for name, field in fields(script).items():
            seen.setdefault(name, field)
            assert field[:2] == seen[name][:2], f"{script}: {name}"
            if field != seen[name]:
                different.add(name)
    assert different == DIFFERENT_FIELDS


@pytest.mark.parametrize("scripts", [BC_SCRIPTS, DAGGERS], ids=["bc", "daggers"])
def test_within_a_family_fields_do_not_differ_at_all(scripts):
    first = fields(scripts[0])
    for script in scripts[1:]:
        for name, field in fields(script).items():
            assert first.get(name, field) == field, f"{script}: {name}"


# --- Form ---


def project_imports(script):
    """What a script imports from this repository, as module.name."""
    local = {path.stem for path in ROOT.glob("*.py")}
    local |= {path.name for path in ROOT.iterdir() if path.is_dir()}
    found = set()
    for node in ast.walk(ast.parse(source_of(script))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        else:
            continue
        found |= {name for name in names if name.split(".")[0] in local}
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_the_expert_is_imported_from_the_project(script):
    expected = {"experts.load_expert"}
    if script == "hg_dagger":
        expected.add("experts.human.HumanExpert")
    assert project_imports(script) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_line_has_more_than_100_columns(script):
    assert [line for line in source_of(script).splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_main_fits_in_40_lines(script):
    assert style.measure(source_of(script))["main"] <= 40


def test_the_table_of_style_can_be_printed(capsys):
    print(style.table([ROOT / f"{script}.py" for script in SCRIPTS]))
    assert len(capsys.readouterr().out.splitlines()) == len(SCRIPTS) + 2
