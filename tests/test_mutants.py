"""Every line of an algorithm, broken, is noticed by a test: the table is in tests/mutants.py."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parent.parent
SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
SCRIPTS += ["dagger", "hg_dagger"]


def source_of(script):
    return (ROOT / f"{script}.py").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mutation_has_a_place_and_is_python(script):
    mutations = [mutation for mutation in mutants.MUTATIONS if mutation.script == script]
    assert len(mutations) >= 10
    for mutation in mutations:
        assert (ROOT / mutation.file).exists()
        assert mutation.old != mutation.new
        ast.parse(mutants.mutated(mutation))


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_a_text_that_is_gone_or_not_alone_is_an_error(old):
    with pytest.raises(LookupError, match=r"bc_mse: .* times, not once"):
        mutants.mutated(mutants.Mutation("bc_mse", old, "", "", ""))


def broken_lines():
    """The lines, without indentation, that a mutation changes in one script or another."""
    lines = set()
    for mutation in mutants.MUTATIONS:
        source = source_of(mutation.script)
        start = source.find(mutation.old)
        first = source.rfind("\n", 0, start) + 1
        last = source.find("\n", start + len(mutation.old))
        lines.update(line.strip() for line in source[first:last].splitlines())
    return lines


BROKEN = broken_lines()


def unbroken(script, pattern):
    """The lines of code that match, and that no mutation changes."""
    lines = [line.strip() for line in source_of(script).splitlines()]
    matching = [line for line in lines if re.search(pattern, line) and line[0] != "#"]
    return [line for line in matching if line not in BROKEN]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_line_with_an_equation_is_broken(script):
    assert unbroken(script, r"#.*\(\d\)") == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_line_that_sets_a_seed_is_broken(script):
    assert unbroken(script, r"^(?!def ).*(\bseed=|\bseed = |_seed\(|_rng\()") == []


NAMED = [  # asked for by name
    ("hg_dagger", "running & (step"),
    ("hg_dagger", '"doubts"][: math.ceil(len('),
    ("bc_mse", "held_out = to_tensors(demos[: args.num_demos]"),
    ("bc_mse", "seed = 1_000_000 * args.seed"),
    ("bc_mog", "shifted = drawn"),
    ("bc_diffusion", "(x0 - prediction).square()"),
]


@pytest.mark.parametrize("script, new", NAMED)
def test_the_mutations_asked_for_are_among_them(script, new):
    assert any(m.script == script and new in m.new for m in mutants.MUTATIONS)


@pytest.mark.slow
def test_no_mutation_survives():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants"], cwd=ROOT, capture_output=True, text=True
    )
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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "SURVIVED" in done.stdout
    assert done.stdout.endswith("1 mutations, 0 caught, 1 not\n")
