"""The grid of the benchmark: what is missing, what is kept, and a Ray cluster of two nodes."""

import importlib
import itertools
import json
import runpy
import subprocess
import sys

import pytest
import torch
import tyro
from safetensors.torch import load_file

import bc_mog
from benchmark import compounding, finetune, grids, report, run, steps
from benchmark.grids import Row

SMALL = "--num-demos 2 --num-envs 2 --num-updates 300 --eval-episodes 2 --hidden-dim 16"
DISTURBED = Row("dagger", f"--num-rounds 0 {grids.DISTURBED} {SMALL} --num-demos 200")
CELLS = [("LaneChange-v0", Row("bc_mse", SMALL), seed) for seed in range(3)]
CELLS += [("LaneChangeDisturbed-v0", DISTURBED, 11)]
WRONG = ("LaneChange-v0", Row("bc_mse", f"{SMALL} --num-demos 0"), 0)

# The work kills its own process once; prints the failed cells.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path

from ray.cluster_utils import Cluster
from benchmark import run
from benchmark.grids import Row

once = Path(sys.argv[2])

def work(env_id, row, seed):
    if seed == 1 and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run.run_script(env_id, row, seed)

run.RESULTS = Path(sys.argv[1])
cells = [(env_id, Row(*row), seed) for env_id, row, seed in json.loads(sys.argv[3])]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
failed = run.run_cells(cells, cluster.address, work=work)
cluster.shutdown()
print(json.dumps(failed))
"""


def grid_cells():
    for grid in grids.GRIDS.values():
        for env_id, (rows, seeds) in grid.items():
            yield from itertools.product([env_id], rows, seeds)


def study_cells():
    for env_id, rows in compounding.ROWS.items():
        yield from itertools.product([env_id], rows.values(), compounding.SEEDS)
    yield from itertools.product(finetune.ENV_IDS, finetune.ROWS.values(), finetune.SEEDS)
    yield from itertools.product([steps.ENV_ID], steps.ROWS, steps.SEEDS)


def test_what_is_missing_depends_on_the_flags_and_on_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    for grid, environments in grids.GRIDS.items():
        expected = sum(len(rows) * len(seeds) for rows, seeds in environments.values())
        assert len(run.missing_cells(run.Args(grid=grid))) == expected

    args = run.Args(env_ids=("Walker2d-v4",), scripts=("bc_mse", "bc_mog"), seeds=(4, 7))
    cells = [
        ("Walker2d-v4", row, seed) for seed in (4, 7) for row in (Row("bc_mse"), Row("bc_mog"))
    ]
    assert run.missing_cells(args) == cells
    run.path_of(*cells[1]).write_text(json.dumps({"total_seconds": 40}))  # old: to be run anew
    assert run.missing_cells(args) == cells
    for seed in (7, 8):
        kept = json.dumps({"seconds": 10 * seed, "schema": 2})
        run.path_of("Walker2d-v4", Row("bc_mog"), seed).write_text(kept)
    assert run.missing_cells(args) == cells[:3]
    assert [r["seconds"] for r in run.results_of("Walker2d-v4", Row("bc_mog"), [4, 7, 8])] == [
        70,
        80,
    ]
    assert [r["seconds"] for r in run.results_of("Walker2d-v4", Row("bc_mog"), [4])] == [40]
    assert run.estimated_seconds("Walker2d-v4", Row("bc_mog")) == pytest.approx(190 / 3)
    assert run.estimated_seconds("Walker2d-v4", Row("bc_mse")) == 300

    seeds = [seed for _, _, seed in run.missing_cells(run.Args(grid="demonstrations"))]
    assert seeds == sorted(seeds)  # a grid that is stopped has whole columns of few seeds


def test_the_command_gives_workers_the_module_and_not_a_copy(monkeypatch):
    """What `python -m` defines itself would travel with the paths of this machine."""
    called = []
    monkeypatch.setattr(run, "run_cells", lambda cells, *_: called.append(cells) or [])
    monkeypatch.setattr(run, "missing_cells", lambda args: [args.grid])
    monkeypatch.setattr(sys, "argv", ["run", "--grid", "modes"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(run.__file__, run_name="__main__")
    assert (called, stopped.value.code) == ([["modes"]], 0)


def test_every_result_belongs_to_a_grid_or_to_a_study():
    known = {run.path_of(*cell) for cell in [*grid_cells(), *study_cells()]}
    assert set(run.RESULTS.glob("*__*.json")) <= known


def test_results_have_the_arguments_that_their_rows_have_today():
    """A default that has changed leaves no old result behind."""
    for env_id, row, seed in set(grid_cells()):
        path = run.path_of(env_id, row, seed)
        if path.exists():
            module = importlib.import_module(row.script)
            flags = [*row.flags.split(), "--env-id", env_id, "--seed", str(seed)]
            today = vars(tyro.cli(module.Args, args=flags))
            kept = run.read(path)["args"]
            same = (kept.keys() & today.keys()) - {"run_dir"}
            assert {key: kept[key] for key in same} == {key: today[key] for key in same}, path.name


def test_every_cell_of_a_grid_is_read_for_a_table(monkeypatch):
    asked = set()

    def path_of(*cell, real=run.path_of):
        asked.add(cell)
        return real(*cell)

    monkeypatch.setattr(run, "path_of", path_of)
    for make in report.TABLES.values():
        make()
    assert set(grid_cells()) <= asked


def test_a_run_is_kept_with_what_made_it_and_its_policy_is_loaded(tmp_path):
    small = {"num_demos": 2, "num_envs": 2, "num_updates": 20, "eval_episodes": 2, "hidden_dim": 8}
    small |= {"num_components": 3, "eval_every": 10}
    args = bc_mog.Args("LaneChange-v0", seed=3, run_dir=str(tmp_path), **small)
    bc_mog.main(args)
    (directory,) = tmp_path.iterdir()
    policy, results = run.load(directory)
    saved = load_file(directory / "policy.safetensors")
    torch.testing.assert_close(dict(policy.state_dict()), saved)
    kept = run.describe(directory)
    assert {key: kept[key] for key in results} == results
    assert (kept["env_id"], kept["seed"]) == ("LaneChange-v0", 3)
    assert kept["num_parameters"] == (4 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * (3 + 2 * 3 * 2)
    (first, _), last = kept["curve"]
    assert first == 10
    assert last == [20, pytest.approx(results["return_mean"], rel=1e-6)]
    made = run.made_by()
    assert made["schema"] == 2
    assert made["versions"]["torch"] == torch.__version__
    assert made["python"] == sys.version.split()[0]
    assert made["processor"]


@pytest.mark.slow
def test_a_cluster_of_two_nodes_finishes_every_cell_although_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "results").mkdir()
    paths = [str(tmp_path / "results"), str(tmp_path / "killed")]
    command = [sys.executable, "-c", PROGRAM, *paths, json.dumps([*CELLS, WRONG])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=run.ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().splitlines()
    assert (tmp_path / "killed").exists()
    assert json.loads(last) == json.loads(json.dumps([WRONG]))
    assert sum("LaneChange-v0__bc_mse__" in line for line in lines) == 3
    assert sum("FAILED" in line for line in lines) == 1
    for cell in CELLS:
        results = json.loads((tmp_path / "results" / run.path_of(*cell).name).read_text())
        assert (results["env_id"], results["seed"]) == (cell[0], cell[2])
        assert {"commit", "schema", "versions", "processor"} <= results.keys()
    # The last begins with demonstrations of the road that is not disturbed.
    assert results["expert_return"] == pytest.approx(1.0)
    assert results["expert_labels"] == 4 * 200
    assert len(list((tmp_path / "results").iterdir())) == len(CELLS)
