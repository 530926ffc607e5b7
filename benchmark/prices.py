"""What holding several modes costs: parameters, held-out likelihood, quantisation, time an action.

    taskset -c 0 python -m benchmark.prices

Trains the scripts that have a density on Hopper-v4, all else default, and writes benchmark/results/prices.json, from
which `python -m benchmark.report` makes the README's table. The held-out negative log-likelihood is that of five expert
episodes which no run has seen, in nats, of a density over actions in the environment's units. The times are those of
the fastest of many calls, in batches of 1 and of 20; they do not depend on the weights.
"""

import importlib
import json
import timeit

import torch

from benchmark.run import RESULTS, SCRIPTS, trained
from experts import load_expert, make_envs

ENV_ID, SEED, HELD_OUT_SEED = "Hopper-v4", 4, 900_000_000


def price(script):
    module, envs = importlib.import_module(script), make_envs(ENV_ID, 5)
    policy = module.Policy(module.Args(), envs.single_observation_space, envs.single_action_space)
    obs, actions = module.collect_demonstrations(envs, load_expert(ENV_ID), 5, HELD_OUT_SEED, 1)
    found = {"num_parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad)}
    if hasattr(policy, "log_prob"):
        policy, results = trained(script, ENV_ID, SEED)
        with torch.no_grad():
            found["held_out_nll"] = -policy.log_prob(obs, actions).mean().item()
        if "quantization_error" in results:
            found["quantization_error"] = results["quantization_error"]
    found["microseconds"] = [
        1e6 * min(timeit.repeat(lambda n=n: policy.act(obs[:n]), number=10, repeat=50)) / (10 * n) for n in (1, 20)
    ]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    prices = {script: price(script) for script in SCRIPTS}
    (RESULTS / "prices.json").write_text(json.dumps(prices, indent=2) + "\n")
    print(json.dumps(prices, indent=2))
