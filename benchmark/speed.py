"""What an update, an environment step and the default command cost, as ratios within one run.

    taskset -c 0 python -m benchmark.speed [scripts]

One process, one thread. An update of each script (batch of 256, Hopper's sizes) stands beside its
floor: the matrix products of its linear layers alone, forward and backward (bc_autoregressive has
products with its embedding and head besides, so it is compared with bc_gaussian's update).
Environment steps under policy control, by the script's own rollout, stand beside stepping the bare
vector environment with the same actions. Each pair is measured in turn, many times; the median and
the median ratio are printed.

    taskset -c 0 python -m benchmark.speed --phases [flags]

runs `bc_mog.py` with these flags, and prints where its time goes.
"""

import importlib
import sys
import tempfile
import time

import gymnasium as gym
import numpy as np
import torch

from benchmark.run import SCRIPTS

BATCH_SIZE = 256
OBS_DIM = 11
ACT_DIM = 3
NUM_DATA = 10_000
NUM_ENVS = 25
NUM_STEPS = 100


def milliseconds(function, number):
    """Mean time of one call."""
    start = time.perf_counter()
    for _ in range(number):
        function()
    return 1e3 * (time.perf_counter() - start) / number


def paired(first, second, number, repeats):
    """Median milliseconds of both, measured alternately, and the median of their ratio."""
    first()
    second()
    pairs = []
    for _ in range(repeats):
        pairs.append((milliseconds(first, number), milliseconds(second, number)))
    pairs = np.array(pairs)
    return *np.median(pairs, axis=0), np.median(pairs[:, 0] / pairs[:, 1])


def make_update(script):
    """One update, as in the script's train, and the matrix products that it cannot do without."""
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
    policy = module.Policy(obs_space, gym.spaces.Box(-1, 1, (ACT_DIM,)))
    obs = torch.randn(NUM_DATA, OBS_DIM)
    actions = torch.rand(NUM_DATA, ACT_DIM) * 2 - 1
    policy.set_statistics(obs, actions)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def update():
        optimizer.param_groups[0]["lr"] = 1e-4
        batch = torch.randint(len(obs), (BATCH_SIZE,))
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(policy, "update_average"):
            policy.update_average()

    layers = []
    for layer in policy.modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight.requires_grad:
            layers.append(layer)
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
    policy = module.make_policy(args, envs)
    episodes = module.rollout(envs, policy.act, NUM_ENVS, seed=0)
    actions = np.stack([episode.actions for episode in episodes], axis=1)  # (steps, envs, act_dim)

    def controlled():
        module.rollout(envs, policy.act, NUM_ENVS, seed=0)

    def bare():
        envs.reset(seed=0)
        for action in actions:
            envs.step(action)

    return bare, controlled


def phases(flags):
    """Run bc_mog.py, and print how long each phase takes."""
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
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as run_dir:
        module.main(module.parse_args([*flags, "--run-dir", run_dir]))
    total = time.perf_counter() - start
    shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
    print(f"of {total:.1f} s: {shares}, the rest {total - sum(spent.values()):.1f} s")


def main():
    if sys.argv[1:2] == ["--phases"]:
        phases(sys.argv[2:])
        return
    scripts = sys.argv[1:] or SCRIPTS
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, python {sys.version.split()[0]}, one thread, eager")
    print(f"{'':22}{'update':>10}{'floor':>10}{'ratio':>8}")
    for script in scripts:
        update, floor, ratio = paired(*make_update(script), number=100, repeats=15)
        print(f"{script:22}{update:>7.2f} ms{floor:>7.2f} ms{ratio:>8.2f}")
    if "bc_autoregressive" in scripts:
        bins, _ = make_update("bc_autoregressive")
        gaussian, _ = make_update("bc_gaussian")
        update, reference, ratio = paired(bins, gaussian, number=100, repeats=15)
        print(f"{'… to bc_gaussian':22}{update:>7.2f} ms{reference:>7.2f} ms{ratio:>8.2f}")

    print(f"{f'{NUM_ENVS} Hopper-v4':22}{'policy':>10}{'bare':>10}{'ratio':>8}")
    for script in scripts:
        bare, controlled = make_rollout(script)
        bare_ms, controlled_ms, ratio = paired(bare, controlled, number=1, repeats=15)
        steps = 1e3 * NUM_ENVS * NUM_STEPS
        print(f"{script:22}{steps / controlled_ms:>8.0f}/s{steps / bare_ms:>8.0f}/s{ratio:>8.2f}")


if __name__ == "__main__":
    main()
