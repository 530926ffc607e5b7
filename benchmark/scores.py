"""What the reports compute from results.json: normalised returns, entropy and shares of modes."""

import functools
import math

import gymnasium as gym
import numpy as np

import bc_autoregressive
from experts import DRIVING, WEIGHTS, NeuralExpert


@functools.cache
def expert_return(env_id):
    """Mean return of the shipped expert over 100 episodes; the driver finishes every road."""
    if env_id in DRIVING:
        return 1.0
    return float(NeuralExpert(WEIGHTS / f"{env_id}.safetensors").metadata["return_mean"])


@functools.cache
def random_return(env_id):
    """Mean return of random actions over 100 episodes."""
    if env_id not in DRIVING:
        return float(NeuralExpert(WEIGHTS / f"{env_id}.safetensors").metadata["random_return"])
    envs = bc_autoregressive.make_envs(bc_autoregressive.Args(env_id=env_id), 50)
    space = gym.vector.utils.batch_space(envs[0].action_space, 50)
    space.seed(0)
    episodes = bc_autoregressive.rollout(envs, lambda obs: space.sample(), 100, seed=10_000)
    return float(np.mean([episode.rewards.sum() for episode in episodes]))


def normalised(env_id, value):
    """A return on the scale on which random actions are 0 and the expert is 1."""
    low = random_return(env_id)
    return (value - low) / (expert_return(env_id) - low)


def mode_entropy(modes, num_modes):
    """Entropy of the modes of the successes, 1 where all `num_modes` are equally frequent."""
    counts = np.array(list(modes.values()))
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(num_modes))


@functools.cache
def demonstrated_share(mode, env_id, seed, num_demos):
    """The share of the demonstrations of a run with this seed that have the mode."""
    args = bc_autoregressive.Args(env_id=env_id, seed=seed, num_demos=num_demos)
    demos, _ = bc_autoregressive.collect_demonstrations(args)
    return float(np.mean([demo.info["mode"] == mode for demo in demos]))


def interquartile_mean(scores):
    """Mean of the middle half of the scores (..., N): a quarter is left out at either end."""
    cut = scores.shape[-1] // 4
    return np.sort(scores)[..., cut : scores.shape[-1] - cut].mean(-1)


def even(tasks):
    """Scores (..., n) of each task, n of its own, as one array; all tasks weigh the same."""
    most = math.lcm(*(task.shape[-1] for task in tasks))
    return np.concatenate(
        [np.repeat(task, most // task.shape[-1], axis=-1) for task in tasks], axis=-1
    )


def bootstrap(tasks, num_samples=10_000):
    """Interquartile mean over tasks and its 95% interval, from seeds redrawn within each task.

    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021
    (https://arxiv.org/abs/2108.13264).
    """
    rng = np.random.default_rng(0)
    drawn = even([rng.choice(task, (num_samples, len(task))) for task in tasks])
    low, high = np.quantile(interquartile_mean(drawn), [0.025, 0.975])
    return interquartile_mean(even(tasks)), low, high
