"""Every line of an algorithm, broken, is noticed by a test: the table is in tests/mutants.py."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mutation_has_a_place_and_is_python(script):
    mutations = [mutation for mutation in mutants.MUTATIONS if mutation.script == script]
    assert len(mutations) >= 6
    for mutation in mutations:
        assert (ROOT / mutation.file).exists()
        assert mutation.old != mutation.new
        ast.parse(mutants.mutated(mutation))


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_a_text_that_is_gone_or_not_alone_is_an_error(old):
    with pytest.raises(LookupError, match=r"bc_mse: .* times, not once"):
        mutants.mutated(mutants.Mutation("bc_mse", old, "", "", ""))


def text(script):
    return (ROOT / f"{script}.py").read_text()


def broken_lines():
    """The lines, without indentation, that a mutation changes in one script or another."""
    lines = set()
    for mutation in mutants.MUTATIONS:
        before, old, after = text(mutation.script).partition(mutation.old)
        changed = before.rpartition("\n")[2] + old + after.partition("\n")[0]
        lines.update(line.strip() for line in changed.splitlines())
    return lines


BROKEN = broken_lines()
EQUATION = r"#.*\(\d\)"
SEED = r"args\.seed\b(?!\})|_rng\(|_seed\(|\bseed="


@pytest.mark.parametrize("pattern", [EQUATION, SEED])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_line_with_an_equation_or_a_seed_is_broken(script, pattern):
    lines = [line.strip() for line in text(script).splitlines()]
    chosen = [line for line in lines if re.search(pattern, line) and line[0] != "#"]
    assert len(chosen) > 0
    assert [line for line in chosen if line not in BROKEN] == []


@pytest.mark.slow
def test_no_mutation_survives():
    command = [sys.executable, "-m", "tests.mutants"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


HARMLESS = """
import sys
from tests import mutants

row = ("bc_mse", "# (1)", "# (one)", "tests/test_policies.py", "squared_loss_is and bc_mse")
mutants.MUTATIONS = [mutants.Mutation(*row)]
sys.exit(mutants.main([]))
"""


@pytest.mark.slow
def test_a_mutation_that_no_test_notices_survives():
    """The harness can fail: a comment is no behaviour."""
    command = [sys.executable, "-c", HARMLESS]  # a process of its own, which has imported nothing
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "SURVIVED" in done.stdout
    assert done.stdout.endswith("1 mutations, 0 caught, 1 not\n")
