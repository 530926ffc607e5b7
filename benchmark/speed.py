"""What an update and an evaluation step cost, as ratios that hold from machine to machine.

    python -m benchmark.speed

One process, one thread, one run. An update of each script (batch of 256, Hopper's sizes) stands beside its floor: the
matrix products of its linear layers alone, forward and backward (bc_autoregressive has products with its embedding and
head besides, so it is compared with bc_gaussian's update). Environment steps under policy control stand beside
stepping the bare vector environment with the same actions. Each pair is measured in turn, many times, and the
median is printed with the median ratio.
"""

import importlib
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from benchmark.run import SCRIPTS
from experts import make_envs, rollout

ROOT = Path(__file__).parent.parent
BATCH_SIZE, OBS_DIM, ACT_DIM, NUM_DATA = 256, 11, 3, 10_000


def milliseconds(function, number):
    """Mean time of one call."""
    start = time.perf_counter()
    for _ in range(number):
        function()
    return 1e3 * (time.perf_counter() - start) / number


def paired(first, second, number, repeats):
    """Median milliseconds of both, measured alternately, and the median of their ratio."""
    first(), second()
    pairs = np.array([(milliseconds(first, number), milliseconds(second, number)) for _ in range(repeats)])
    return *np.median(pairs, axis=0), np.median(pairs[:, 0] / pairs[:, 1])


def make_update(script):
    """One update, as in the script's main, and the matrix products that it cannot do without."""
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
    args = module.Args()
    policy = module.Policy(args, obs_space, gym.spaces.Box(-1, 1, (ACT_DIM,)))
    obs, actions = torch.randn(NUM_DATA, OBS_DIM), torch.rand(NUM_DATA, ACT_DIM) * 2 - 1
    policy.fit(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, fused=True)

    def update():
        optimizer.param_groups[0]["lr"] = 1e-4
        batch = torch.randint(len(obs), (BATCH_SIZE,))
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    layers = [layer for layer in policy.modules() if isinstance(layer, torch.nn.Linear) and layer.weight.requires_grad]
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


def evaluation(script, num_envs=20, num_steps=100):
    """Steps under policy control, and the bare steps of the same actions; the environments never end while it lasts."""
    module = importlib.import_module(script)
    envs = make_envs("Hopper-v4", num_envs, terminate_when_unhealthy=False, max_episode_steps=10**9)
    policy = module.Policy(module.Args(), envs.single_observation_space, envs.single_action_space)
    actions = []

    def act(obs):
        return policy.act(torch.as_tensor(obs, dtype=torch.float32)).cpu().numpy()

    def controlled():
        actions.clear()
        steps = rollout(envs, act, 1, seed=0)
        for _ in range(num_steps):
            actions.append(next(steps)[2])

    def bare():
        envs.reset(seed=list(range(num_envs)))
        for action in actions:
            envs.step(action)

    return bare, controlled, num_envs * num_steps


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, python {sys.version.split()[0]}, one thread, eager")
    print(f"{'':22}{'update':>10}{'floor':>10}{'ratio':>8}")
    for script in SCRIPTS:
        update, floor, ratio = paired(*make_update(script), number=100, repeats=15)
        print(f"{script:22}{update:>7.2f} ms{floor:>7.2f} ms{ratio:>8.2f}")
    pair = make_update("bc_autoregressive")[0], make_update("bc_gaussian")[0]
    update, reference, ratio = paired(*pair, number=100, repeats=15)
    print(f"{'… to bc_gaussian':22}{update:>7.2f} ms{reference:>7.2f} ms{ratio:>8.2f}")
    print(f"{'20 Hopper-v4':22}{'policy':>10}{'bare':>10}{'ratio':>8}")
    for script in SCRIPTS:
        bare, controlled, num_steps = evaluation(script)
        bare_ms, controlled_ms, ratio = paired(bare, controlled, number=1, repeats=15)
        rates = [1e3 * num_steps / ms for ms in (controlled_ms, bare_ms)]
        print(f"{script:22}{rates[0]:>8.0f}/s{rates[1]:>8.0f}/s{ratio:>8.2f}")


if __name__ == "__main__":
    main()
