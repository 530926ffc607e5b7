"""What holding several modes costs in parameters and in rounding to bins.

    python -m benchmark.prices

Writes benchmark/results/prices.json, from which `python -m benchmark.report` makes a table. The
rounding is the distance from a demonstrated action to the nearest centres of bins (root mean
square), over ten demonstrations of Hopper-v4. `benchmark.speed` measures the time.
"""

import importlib
import json

import bc_autoregressive
from benchmark.grids import SCRIPTS
from benchmark.run import RESULTS

ENV_ID = "Hopper-v4"
SEED = 4


def num_parameters(script):
    module = importlib.import_module(script)
    args = module.Args(env_id=ENV_ID)
    (env,) = module.make_envs(args, 1)
    policy = module.Policy(env.observation_space, env.action_space, args)
    return sum(parameter.numel() for parameter in policy.parameters())


def distance_to_bins():
    args = bc_autoregressive.Args(env_id=ENV_ID, seed=SEED)
    (env,) = bc_autoregressive.make_envs(args, 1)
    policy = bc_autoregressive.Policy(env.observation_space, env.action_space, args)
    demos, _ = bc_autoregressive.collect_demonstrations(args)
    obs, actions = bc_autoregressive.to_tensors(demos, "cpu")
    policy.set_statistics(obs, actions)
    errors = (actions[..., None] - policy.centres).abs().amin(-1)
    return errors.square().sum(-1).mean().sqrt().item()


if __name__ == "__main__":
    prices = {
        "num_parameters": {script: num_parameters(script) for script in SCRIPTS},
        "distance_to_bins": distance_to_bins(),
    }
    (RESULTS / "prices.json").write_text(json.dumps(prices, indent=2) + "\n")
    print(json.dumps(prices, indent=2))
