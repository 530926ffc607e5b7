"""The scripts share everything that is not the algorithm, to the letter, and nothing by import."""

import ast
import difflib
import functools
import re
from pathlib import Path

import pytest

from tests import style

ROOT = Path(__file__).parent.parent
# Lines at most, with docstring and blank ones.
LINES = {"bc_mse": 303, "bc_gaussian": 318, "bc_mog": 328, "bc_autoregressive": 388}
LINES |= {"bc_diffusion": 393, "bc_flow": 363, "dart": 325, "dagger": 380, "hg_dagger": 464}
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))

# What every script defines after Args and Policy, in this order; and what is a script's own.
SHARED = ["mean_and_std", "train", "make_envs", "Episode", "rollout", "collect_demonstrations"]
SHARED += ["check", "to_tensors", "evaluate", "record_videos", "main"]
OWN = {
    "dart": ["disturb"],
    "dagger": ["dagger", "collect_round"],
    "hg_dagger": ["SimulatedGate", "hg_dagger", "play_round"],
}

# Definitions of one name are identical, but for these groups of scripts with a text of their own.
# The number is that of the lines that differ from bc_mse.py, at most. Only the algorithm explains
# a difference: the comment has the reason for each group, in their order.
BINS = ("bc_autoregressive",)
CHUNKS = ("bc_diffusion", "bc_flow")
SAMPLERS = ("bc_autoregressive", "bc_gaussian", "bc_mog")
DAGGERS = ("dagger", "hg_dagger")
DART = ("dart",)
ALLOWED = {
    "train": {CHUNKS: 4, DAGGERS: 24},  # chunks of actions; the gradient steps of one round
    "make_envs": {BINS: 11, DAGGERS: 6},  # Discrete and MultiDiscrete actions; Discrete ones
    "rollout": {CHUNKS: 3, DART: 4},  # a chunk ends with its episode; what is executed is disturbed
    "collect_demonstrations": {DART: 19, DAGGERS: 11},  # disturbed; nothing is held out
    "to_tensors": {BINS: 3, CHUNKS: 11, DAGGERS: 13},  # categories; chunks; --label-share
    "evaluate": {SAMPLERS: 4, CHUNKS: 5, DAGGERS: 3},  # draws; draws of chunks; a comment on seeds
    "record_videos": {CHUNKS: 3},  # a chunk ends with its episode
    "main": {DAGGERS[:1]: 29, DAGGERS[1:]: 29},  # --resume, and rounds; the same, with doubts
}

# Lines that differ, added and removed, a bit above the figure of 2026-11.
DIFF_BUDGETS = {
    ("bc_mse", "bc_gaussian"): 63,
    ("bc_gaussian", "bc_mog"): 70,
    ("bc_mog", "bc_autoregressive"): 175,
    ("bc_mse", "bc_diffusion"): 178,
    ("bc_diffusion", "bc_flow"): 120,
    ("bc_mse", "dart"): 65,
    ("bc_mse", "dagger"): 237,
    ("dagger", "hg_dagger"): 195,
}

# Fields of Args whose comment differs between behaviour cloning and the DAggers, which hold nothing
# out, only begin with the data set, and share the updates among the rounds.
DIFFERENT_COMMENTS = {"num_demos", "dataset", "num_updates"}


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


def difference(a, b):
    """The lines that differ, added and removed."""
    diff = list(difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=0))
    return [line for line in diff[2:] if line[0] in "+-"]


@pytest.mark.parametrize("name", SHARED)
def test_definitions_of_one_name_are_identical(name):
    groups = {}
    for script in SCRIPTS:
        groups.setdefault(definitions(script)[name], []).append(script)
    allowed = dict(ALLOWED.get(name, {}))
    apart = sum(allowed, ())
    allowed[tuple(script for script in SCRIPTS if script not in apart)] = 0
    for text, group in groups.items():
        assert tuple(group) in allowed
        changed = difference(definitions("bc_mse")[name], text)
        assert len(changed) <= allowed[tuple(group)], "\n".join(changed)


@pytest.mark.parametrize("pair", DIFF_BUDGETS, ids="-".join)
def test_the_diff_between_neighbours_is_the_algorithm(pair):
    changed = difference(*map(source_of, pair))
    assert len(changed) <= DIFF_BUDGETS[pair], "\n".join(changed)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_algorithm_comes_first_and_the_rest_in_one_order(script):
    names = list(definitions(script))
    assert names[:2] == ["Args", "Policy"]
    own = [name for name in names[2:] if name not in SHARED]
    assert own == OWN.get(script, [])
    assert [name for name in names[2:] if name in SHARED] == SHARED
    assert max(map(names.index, own), default=0) < names.index("make_envs")
    ends = [source_of(each).splitlines()[-7:] for each in (script, "bc_mse")]
    assert ends[0] == ends[1]
    assert ends[0][2] == 'if __name__ == "__main__":'


def fields(script):
    """Type, default and comment of each field of Args."""
    body = definitions(script)["Args"]
    found = re.findall(r"^    (\w+): (.+?) = (.+?)(?:  # (.*))?$", body, re.MULTILINE)
    (tree,) = ast.parse(body).body
    annotated = [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert [field[0] for field in found] == annotated
    return {name: rest for name, *rest in found}


def test_fields_of_args_have_one_type_one_default_and_one_comment():
    seen = {}
    different = set()
    for script in SCRIPTS:
        for name, field in fields(script).items():
            family = seen.setdefault((name, script in DAGGERS), field)
            first = seen.setdefault(name, field)
            assert field == family, f"{script}: {name}"
            assert field[:2] == first[:2], f"{script}: {name}"
            if field != first:
                different.add(name)
    assert different == DIFFERENT_COMMENTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_the_expert_is_imported_from_the_project(script):
    local = {path.stem for path in ROOT.glob("*.py")}
    local |= {path.name for path in ROOT.iterdir() if path.is_dir()}
    found = set()
    for node in ast.walk(ast.parse(source_of(script))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    human = {"experts.human.HumanExpert"} if script == "hg_dagger" else set()
    expected = {"experts.load_expert", *human}
    assert {name for name in found if name.split(".")[0] in {*local, ""}} == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_short_and_not_dense(script):
    measures = style.measure(source_of(script))
    assert measures["lines"] <= LINES[script]
    assert measures["main"] <= 40
    assert measures["characters a code line"] < 43  # lines saved by packing are no gain
    assert measures["tokens a code line"] < 12
