"""What holding several modes costs in parameters, held-out likelihood and quantisation.

    python -m benchmark.prices

Trains the scripts that have a density on Hopper-v4, all else default, and writes
benchmark/results/prices.json, from which `python -m benchmark.report` makes the README's table. The
held-out negative log-likelihood is that of five expert episodes which no run has seen, in nats, of
a density over actions in the environment's units; beside it stands the lowest that Gaussians can
have, with no error and the least width that `--min-std` leaves. The quantisation error is the
distance from a demonstrated action to the nearest centres (root mean square). `benchmark.speed`
measures the time.
"""

import importlib
import json

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
    policy = module.Policy(envs[0].observation_space, envs[0].action_space, args)
    episodes = module.rollout(envs, load_expert(ENV_ID), 5, seed=HELD_OUT_SEED)
    found = {"num_parameters": sum(p.numel() for p in policy.parameters())}
    if hasattr(policy, "log_prob"):
        policy, _ = trained(script, ENV_ID, SEED)
        obs, actions = module.to_tensors(episodes, "cpu")
        with torch.no_grad():
            found["held_out_nll"] = -policy.log_prob(obs, actions).mean().item()
        if hasattr(args, "min_std"):
            least = torch.distributions.Normal(0, args.min_std * policy.action_std)
            found["lowest_nll"] = -least.log_prob(torch.zeros(())).sum().item()
        if hasattr(policy, "centres"):
            errors = (actions[..., None] - policy.centres).abs().amin(-1)
            found["quantization_error"] = errors.square().sum(-1).mean().sqrt().item()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    prices = {script: price(script) for script in SCRIPTS}
    (RESULTS / "prices.json").write_text(json.dumps(prices, indent=2) + "\n")
    print(json.dumps(prices, indent=2))
