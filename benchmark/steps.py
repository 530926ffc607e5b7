"""How many steps from noise to action: diffusion beside flow matching on Slalom-v0.

    python -m benchmark.steps    # run what is missing

Each policy is trained once, as on the road of the other tables, and evaluated with different
numbers of inference steps. `python -m benchmark.report` writes the table.
"""

import importlib
import sys
import time

import tyro

from benchmark.grids import ROAD, Row
from benchmark.run import Machines, run_missing, trained

ENV_ID = "Slalom-v0"
ROWS = [Row(script, ROAD, "steps") for script in ("bc_diffusion", "bc_flow")]
NUM_STEPS = [1, 2, 4, 8, 16, 25, 50]
SEEDS = [21, 22, 23]
EVAL_EPISODES = 500


def measure(env_id, row, seed):
    """In a worker: train, and evaluate with each number of steps; the results, and a line."""
    import torch

    start = time.time()
    torch.set_num_threads(1)
    module = importlib.import_module(row.script)
    policy, _ = trained(env_id, row, seed)
    args = module.Args(env_id=env_id, seed=seed)
    envs = module.make_envs(args, 25)
    found = {}
    for num_steps in NUM_STEPS:
        policy.args.num_inference_steps = num_steps
        results = module.evaluate(args, envs, policy, EVAL_EPISODES)
        found[num_steps] = {key: results[key] for key in ("success_rate", "modes")}
    measured = {"env_id": env_id, "row": str(row), "seed": seed, "steps": found}
    rates = ", ".join(f"{num}: {result['success_rate']:.1%}" for num, result in found.items())
    return measured | {"seconds": time.time() - start}, f"{row} on {env_id}, seed {seed}: {rates}"


def main(args):
    cells = [(ENV_ID, row, seed) for seed in SEEDS for row in ROWS]
    failed = run_missing(cells, args, measure)
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(Machines, description=__doc__))
