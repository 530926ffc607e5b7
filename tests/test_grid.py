"""The grid of the benchmark, on a Ray cluster of two nodes on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import run

ROOT = Path(__file__).parent.parent
ROW = "bc_mse --num-demos 2 --num-envs 2 --num-updates 300 --eval-episodes 2 --hidden-dim 16"
CELLS = [("LaneChange-v0", ROW, seed) for seed in range(3)]
WRONG = ("LaneChange-v0", f"{ROW} --num-demos 0", 0)

# Kills the first worker of its own that it sees at work, and prints the process and the failed
# cells.
PROGRAM = """
import json, os, signal, sys, threading, time
from pathlib import Path

from ray.cluster_utils import Cluster
from benchmark import run

def is_ours(process):
    while process > 1 and process != os.getpid():
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])  # the parent
    return process == os.getpid()

def worker():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            process = int(path.parent.name)
            if path.read_bytes().startswith(b"ray::run_script") and is_ours(process):
                return process
        except OSError:
            pass

def kill_a_worker():
    while not killed:
        if worker():
            killed.append(worker())
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.2)

run.RESULTS = Path(sys.argv[1])
cells = [tuple(cell) for cell in json.loads(sys.argv[2])]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
killed = []
threading.Thread(target=kill_a_worker, daemon=True).start()
failed = run.run_cells(cells, cluster.address)
cluster.shutdown()
print(json.dumps([killed, failed]))
"""


def test_what_is_missing_depends_on_the_flags_and_on_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    for grid, environments in run.GRIDS.items():
        expected = sum(len(rows) * len(seeds) for rows, seeds in environments.values())
        assert len(run.missing_cells(run.Args(grid=grid))) == expected

    args = run.Args(env_ids=("Walker2d-v4",), scripts=("bc_mse", "bc_mog"), seeds=(4, 7))
    cells = [("Walker2d-v4", row, seed) for seed in (4, 7) for row in ("bc_mse", "bc_mog")]
    assert run.missing_cells(args) == cells
    run.path_of(*cells[1]).write_text(json.dumps({"total_seconds": 40}))
    assert run.missing_cells(args) == [cells[0], *cells[2:]]
    assert run.estimated_seconds("Walker2d-v4", "bc_mog") == 40
    assert run.estimated_seconds("Walker2d-v4", "bc_mse") == 300

    args = run.Args(grid="demonstrations", env_ids=("Ant-v4",), scripts=("bc_mse",), seeds=(4,))
    args.num_demos = (10, 25)
    assert run.missing_cells(args) == [
        ("Ant-v4", "bc_mse", 4),
        ("Ant-v4", "bc_mse --num-demos 25", 4),
    ]
    seeds = [seed for _, _, seed in run.missing_cells(run.Args(grid="demonstrations"))]
    assert seeds == sorted(seeds)  # a grid that is stopped has whole columns of few seeds


@pytest.mark.slow
def test_a_cluster_of_two_nodes_finishes_every_cell_although_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps([*CELLS, WRONG])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().splitlines()
    killed, failed = json.loads(last)
    assert len(killed) == 1
    assert failed == [list(WRONG)]
    assert sum("bc_mse on LaneChange-v0: return" in line for line in lines) == len(CELLS)
    assert sum("num_demos must be at least 1" in line or "FAILED" in line for line in lines) == 1
    for env_id, row, seed in CELLS:
        results = json.loads((tmp_path / f"{run.path_of(env_id, row, seed).name}").read_text())
        assert results["seed"] == seed
    assert len(list(tmp_path.iterdir())) == len(CELLS)
