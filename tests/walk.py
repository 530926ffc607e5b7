"""An environment for tests of what is recorded: its observations say where they come from."""

import importlib

import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    """Observes its seed, the step and the last action; lasts 1 to 4 steps, by its seed.

    The reward is the action. Even seeds end in success, in the mode "L" or "R". It is careless: it
    returns the same array and the same info each time, and changes the action that it is given.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    played = []  # the seed of each step, of all environments

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.obs = np.zeros(3, np.float32)
        self.info = {}

    def reset(self, *, seed=None, options=None):
        self.start = seed
        self.obs[:] = seed, 0, 0
        self.info.clear()
        return self.obs, self.info

    def step(self, action):
        self.played.append(self.start)
        self.obs[1:] = self.obs[1] + 1, action[0]
        reward = float(action[0])
        action *= 0.5
        done = self.obs[1] == length(self.start)
        if done and self.start % 2 == 0:
            self.info.update(is_success=True, mode="LR"[self.start % 4 // 2])
        return self.obs, reward, bool(done), False, self.info

    def render(self):
        return np.full((16, 16, 3), self.start % 256, np.uint8)


gym.register("Walk-v0", Walk, max_episode_steps=100)


def length(seed):
    return 1 + seed % 4


def walk_envs(num_envs):
    return [gym.make("Walk-v0") for _ in range(num_envs)]


def by_seed(obs):
    """An expert whose action is 1 + the step, or less for an odd seed."""
    return (1 + obs[:, 1:2] - 0.5 * (obs[:, :1] % 2)).astype(np.float32)


def args_for(script, **arguments):
    module = importlib.import_module(script)
    return module, module.Args(env_id="Walk-v0", expert="tests.walk:by_seed", **arguments)
