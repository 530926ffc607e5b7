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
def demonstrated_share(mode, env_id, seed, num_demos, expert=None):
    """The share of the demonstrations of a run with this seed that have the mode."""
    args = bc_autoregressive.Args(env_id=env_id, seed=seed, num_demos=num_demos, expert=expert)
    demos, _ = bc_autoregressive.collect_demonstrations(args)
    return float(np.mean([demo.info["mode"] == mode for demo in demos]))
