"""What an update, an action and an environment step cost, as ratios within one run.

    taskset -c 0 python -m benchmark.speed

One process, one thread. The speed of a machine changes while it is measured, so two things are
measured in turn, many times, and the median of their ratio is kept:

- an update (batch of 256, Hopper's sizes) to its floor, the matrix products of its linear layers
  alone, forward and backward (bc_autoregressive has products with its embedding and head besides);
- an update to that of bc_mse;
- the time of an action to that of bc_mse, in batches of 1 and of 20;
- environment steps by the script's own rollout to bare steps with the same actions.

Last, `bc_mog.py` runs with its defaults, and the seconds of demonstrations, training and evaluation
are kept. Writes benchmark/results/speed.json, from which `python -m benchmark.report` makes
tables.
"""

import importlib
import json
import tempfile
import time
import timeit

import gymnasium as gym
import numpy as np
import torch

from benchmark.grids import SCRIPTS
from benchmark.run import RESULTS

BATCH_SIZE = 256
OBS_DIM = 11
ACT_DIM = 3
NUM_DATA = 10_000
NUM_ENVS = 25
NUM_STEPS = 100


def paired(first, second, number, repeats):
    """The ratio of the first's time to the second's: the median over pairs of measurements."""
    first()
    second()
    ratios = []
    for _ in range(repeats):
        ratios.append(timeit.timeit(first, number=number) / timeit.timeit(second, number=number))
    return float(np.median(ratios))


def make_update(script):
    """One update, as in the script's train, and the matrix products that it cannot do without."""
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
    policy = module.Policy(obs_space, gym.spaces.Box(-1, 1, (ACT_DIM,)), module.Args())
    obs = torch.randn(NUM_DATA, OBS_DIM)
    actions = torch.rand(NUM_DATA, ACT_DIM) * 2 - 1
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, fused=True)

    def update():
        optimizer.param_groups[0]["lr"] = 1e-4
        batch = torch.randint(len(obs), (BATCH_SIZE,))
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    layers = [layer for layer in policy.modules() if isinstance(layer, torch.nn.Linear)]
    inputs = [torch.randn(BATCH_SIZE, layer.in_features) for layer in layers]
    grads = [torch.randn(BATCH_SIZE, layer.out_features) for layer in layers]
    weights = [layer.weight.detach() for layer in layers]

    @torch.no_grad()
    def floor():
        for i, (x, grad, weight) in enumerate(zip(inputs, grads, weights, strict=True)):
            x @ weight.T
            grad.T @ x
            if i > 0:  # the observations need no gradient
                grad @ weight

    return update, floor


def make_rollout(script):
    """One episode of each environment under policy control, and bare steps of the same actions."""
    module = importlib.import_module(script)
    args = module.Args(max_episode_steps=NUM_STEPS)
    envs = module.make_envs(args, NUM_ENVS, terminate_when_unhealthy=False)
    policy = module.Policy(envs[0].observation_space, envs[0].action_space, args)
    episodes = module.rollout(envs, policy.act, NUM_ENVS, seed=0)

    def controlled():
        module.rollout(envs, policy.act, NUM_ENVS, seed=0)

    def bare():
        for k, (env, episode) in enumerate(zip(envs, episodes, strict=True)):
            env.reset(seed=k)
            for action in episode.actions:
                env.step(action)

    return bare, controlled


def make_action(script, num):
    """The actions for `num` observations."""
    module = importlib.import_module(script)
    envs = module.make_envs(module.Args(), num)
    policy = module.Policy(envs[0].observation_space, envs[0].action_space, module.Args())
    obs = np.stack([env.reset(seed=k)[0] for k, env in enumerate(envs)])
    return lambda: policy.act(obs)


def phases():
    """Seconds that bc_mog.py with its defaults spends in each of its functions."""
    module = importlib.import_module("bc_mog")
    spent = {"collect_demonstrations": 0.0, "train": 0.0, "evaluate": 0.0}

    def watch(name):
        function = getattr(module, name)

        def timed(*arguments):
            start = time.perf_counter()
            before = sum(spent.values())
            result = function(*arguments)
            within = sum(spent.values()) - before  # the evaluations in a training
            spent[name] += time.perf_counter() - start - within
            return result

        setattr(module, name, timed)

    for name in spent:
        watch(name)
    with tempfile.TemporaryDirectory() as run_dir:
        module.main(module.Args(run_dir=run_dir))
    return spent


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured = {}
    for script in SCRIPTS:
        update, floor = make_update(script)
        mse_update, _ = make_update("bc_mse")
        bare, controlled = make_rollout(script)
        found = {
            "update_to_floor": paired(update, floor, number=100, repeats=15),
            "update_to_mse": paired(update, mse_update, number=100, repeats=15),
            "share_of_bare_steps": paired(bare, controlled, number=1, repeats=15),
        }
        for num in (1, 20):
            action, mse_action = make_action(script, num), make_action("bc_mse", num)
            found[f"action_to_mse_{num}"] = paired(action, mse_action, number=20, repeats=25)
        measured[script] = found
        print(script, found)
    measured["phases"] = phases()
    print(measured["phases"])
    (RESULTS / "speed.json").write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
