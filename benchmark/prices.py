"""What holding several modes costs: parameters, held-out likelihood, quantisation, time an action.

    taskset -c 0 python -m benchmark.prices

Trains the scripts that have a density on Hopper-v4, all else default, and writes
benchmark/results/prices.json, from which `python -m benchmark.report` makes the README's table. The
held-out negative log-likelihood is that of five expert episodes which no run has seen, in nats, of
a density over actions in the environment's units. The quantisation error is the distance from a
demonstrated action to the nearest centres (root mean square). The times are those of the fastest of
many calls, in batches of 1 and of 20; they do not depend on the weights.
"""

import importlib
import json
import timeit

import torch

from benchmark.run import RESULTS, SCRIPTS, trained
from experts import load_expert

ENV_ID = "Hopper-v4"
SEED = 4
HELD_OUT_SEED = 900_000_000


def price(script):
    module = importlib.import_module(script)
    args = module.Args(env_id=ENV_ID)
    envs = module.make_envs(args, 5)
    policy = module.make_policy(args, envs)
    episodes = module.rollout(envs, load_expert(ENV_ID), 5, seed=HELD_OUT_SEED)
    found = {"num_parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad)}
    if hasattr(policy, "log_prob"):
        policy, _ = trained(script, ENV_ID, SEED)
        obs, actions = module.to_tensors(episodes, "cpu")
        with torch.no_grad():
            found["held_out_nll"] = -policy.log_prob(obs, actions).mean().item()
        if hasattr(policy, "centres"):
            errors = (actions[..., None] - policy.centres).abs().amin(-1)
            found["quantization_error"] = errors.square().sum(-1).mean().sqrt().item()

    found["microseconds"] = []
    for num in (1, 20):
        obs = episodes[0].obs[:num]
        seconds = min(timeit.repeat(lambda obs=obs: policy.act(obs), number=10, repeat=50)) / 10
        found["microseconds"].append(1e6 * seconds / num)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    prices = {script: price(script) for script in SCRIPTS}
    (RESULTS / "prices.json").write_text(json.dumps(prices, indent=2) + "\n")
    print(json.dumps(prices, indent=2))
