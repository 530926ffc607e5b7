"""Humanoid-v4 with fewer observations, to see what its many inputs do to a clone.

    python bc_mse.py --env-id benchmark.humanoid:HumanoidState-v0 --expert benchmark.humanoid:expert

HumanoidState-v0 has the 45 positions and velocities that the expert reads. HumanoidNoForces-v0 has
all 376 but the 23 forces of the actuators, which are proportional to the previous action: a clone
could learn to repeat it (de Haan et al., 2019, https://arxiv.org/abs/1905.11979).
"""

import gymnasium as gym
import numpy as np

from experts import load_expert

STATE = np.arange(45)
FORCES = np.arange(45 + 140 + 84, 45 + 140 + 84 + 23)  # after inertias and velocities of the bodies
NO_FORCES = np.setdiff1d(np.arange(376), FORCES)

expert = load_expert("Humanoid-v4")  # reads the first 45


def reading(kept, **kwargs):
    """Humanoid-v4 with the observations `kept` alone."""
    env = gym.make("Humanoid-v4", **kwargs)
    space = gym.spaces.Box(-np.inf, np.inf, kept.shape, np.float64)
    return gym.wrappers.TransformObservation(env, lambda obs: obs[kept], space)


def state(**kwargs):
    return reading(STATE, **kwargs)


def no_forces(**kwargs):
    return reading(NO_FORCES, **kwargs)


gym.register("HumanoidState-v0", state, max_episode_steps=1000)
gym.register("HumanoidNoForces-v0", no_forces, max_episode_steps=1000)
