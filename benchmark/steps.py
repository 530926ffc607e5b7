"""How many steps from noise to action: diffusion beside flow matching on Slalom-v0.

    python -m benchmark.steps    # run what is missing

Each policy is trained once, as in the README's table, and evaluated with different numbers of
inference steps. `python -m benchmark.report` writes the README's table.
"""

import json
import time
from dataclasses import dataclass

import tyro

from benchmark.run import ROAD, path_of, run_cells, trained

ENV_ID = "Slalom-v0"
SCRIPTS = ["bc_diffusion", "bc_flow"]
NUM_STEPS = [1, 2, 4, 6, 8, 12, 25]
SEEDS = [4, 5, 6]
EVAL_EPISODES = 500


@dataclass
class Args:
    num_cpus: int | None = None  # runs side by side, each on one core; None: one for each core
    address: str | None = None  # of a Ray cluster, in place of this machine


def measure(env_id, row, seed):
    """In a worker: train, and evaluate with each number of steps; the results, and a line."""
    import importlib

    import torch

    start = time.time()
    torch.set_num_threads(1)
    _, script = row.split()  # after "steps"
    module = importlib.import_module(script)
    policy, _ = trained(script, env_id, seed, *ROAD.split())
    args = module.Args(env_id=env_id, seed=seed)
    envs = module.make_envs(args, 25)
    found = {}
    for num_steps in NUM_STEPS:
        policy.num_inference_steps = num_steps
        results = module.evaluate(args, envs, policy, EVAL_EPISODES)
        found[num_steps] = {key: results[key] for key in ("success_rate", "modes")}
    measured = {"env_id": env_id, "row": row, "seed": seed, "steps": found}
    measured["total_seconds"] = time.time() - start
    rates = ", ".join(f"{num}: {result['success_rate']:.1%}" for num, result in found.items())
    return json.dumps(measured), f"{row} on {env_id}, seed {seed}: {rates}"


def main(args):
    cells = [(ENV_ID, f"steps {script}", seed) for seed in SEEDS for script in SCRIPTS]
    missing = [cell for cell in cells if not path_of(*cell).exists()]
    if missing:
        run_cells(missing, args.address, args.num_cpus, measure)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
