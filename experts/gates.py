"""Who decides that the expert takes over from the novice: a rule that stands in for a person, or a person at the keys.

A gate is called with obs (N, obs_dim) and the novice's actions and returns the expert's actions, of the same shape, and
`control` (N,) bool, True where the expert acts. `reset(starts)` tells it where episodes begin; `closed` turns True when
the person has had enough.
"""

import os
import sys
import time

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from experts import make_envs

LOOK_AHEAD = 6  # decisions: from the start of a road past its first obstacle
KEYS = {  # of Discrete environments, by the names that pygame gives them; elsewhere the digits
    "CartPole": {"left": 0, "right": 1},
    "Acrobot": {"left": 0, "space": 1, "right": 2},
    "LunarLander": {"space": 0, "left": 1, "up": 2, "right": 3},
}


class OpenGate:
    """The expert, or a data set in its place, acts in every step: demonstrations."""

    closed = False

    def __init__(self, envs, expert):
        self.envs, self.expert = envs, expert


class SimulatedGate:
    """Takes over where the novice is about to err seriously, by a rule with hysteresis.

    On the driving environments: where the novice, left alone, would hit something or leave the road within the next six
    decisions. Elsewhere: where the running mean of the disagreement, at a rate of 1 / `steps`, exceeds `enter`.
    It hands back after `steps` steps in a row without such danger, or with less than half of that disagreement, which
    is the root mean square difference of the actions, in standard deviations of the labels so far, or 0 or 1 for
    categories: there 0.5 takes four steps in a row. The expert is asked at each step, but only what it does in control
    becomes a label.
    """

    closed = False

    def __init__(self, envs, expert, policy, enter, steps):
        self.envs, self.expert, self.policy, self.std = envs, expert, policy, policy.action_moments[1].cpu().numpy()
        self.enter, self.steps = enter, steps
        self.discrete = isinstance(envs.single_action_space, gym.spaces.Discrete)
        self.mean, self.calm = np.zeros(envs.num_envs), np.zeros(envs.num_envs)
        self.control = np.zeros(envs.num_envs, bool)

    def reset(self, starts):
        self.mean[starts], self.calm[starts], self.control[starts] = 0, 0, False
        if hasattr(self.expert, "reset"):
            self.expert.reset(starts)

    def __call__(self, obs, proposed):
        actions = self.expert(obs)
        if hasattr(self.envs.envs[0].unwrapped, "ends_badly"):
            device = self.policy.obs_moments.device
            novice = lambda obs: self.policy.act(torch.as_tensor(obs, device=device)).cpu().numpy()  # noqa: E731
            errs = enters = np.array([env.unwrapped.ends_badly(novice, LOOK_AHEAD) for env in self.envs.envs])
        else:
            if self.discrete:
                differs = (actions != proposed).astype(float)
            else:
                differs = np.sqrt(np.square((actions - proposed) / self.std).mean(-1))
            self.mean += (differs - self.mean) / self.steps
            errs, enters = differs >= self.enter / 2, self.mean > self.enter
        self.calm = np.where(errs, 0, self.calm + 1)
        self.control = (self.calm < self.steps) & (self.control | enters)
        return actions, self.control


class HumanGate:
    """A person at the keyboard, in a window: a held key takes over, letting go hands back, closing the window ends.

    On the driving environments up and down steer to that side of the picture, right and left change the speed, and the
    space bar holds the middle. Elsewhere the action space must be Discrete; the picture says which key means what, who
    drives, and the title. A correction is on disk as soon as it ends, as safetensors with obs (L, obs_dim) and actions
    (L, act_dim). Raises ValueError where there is no screen, or no way to steer.
    """

    def __init__(self, env_id):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self.envs = make_envs(env_id, 1, render_mode="rgb_array")
        self.pygame, (env,), space, self.discrete = pygame, self.envs.envs, self.envs.single_action_space, True
        name = next((name for name in KEYS if env_id.startswith(name)), None)
        if hasattr(env.unwrapped, "on_frame"):
            self.discrete = False
            self.keys = {
                "up": (0.9, 0.0),
                "down": (-0.9, 0.0),
                "right": (0.0, 1.0),
                "left": (0.0, -1.0),
                "space": (0.0, 0.0),
            }
            self.help = "up, down: steer   right, left: faster, slower   space: to the middle"
        elif isinstance(space, gym.spaces.Discrete):
            self.keys = KEYS[name] if name else {str(i): i for i in range(min(10, int(space.n)))}
            self.keys = {key: int(space.start) + i for key, i in self.keys.items()}
            self.help = "   ".join(f"{key}: {action}" for key, action in self.keys.items())
        else:
            raise ValueError(f"--gate human steers the driving environments and Discrete ones, not {env_id}.")
        self.env, self.closed, self.control, self.title = env, False, False, ""
        self.fps = 20 if not self.discrete else env.metadata.get("render_fps", 30)
        try:
            pygame.display.init()
            if pygame.display.get_driver() in ("dummy", "offscreen"):
                raise pygame.error("no display")
            pygame.font.init()
            env.reset()
            width, height = self.frame().get_size()
            self.screen = pygame.display.set_mode((max(640, width), height + 60))
        except pygame.error as error:
            raise ValueError(f"--gate human needs a screen ({error}); run it in a desktop session.") from error
        pygame.display.set_caption(f"hg_dagger: {env_id}")
        self.font, self.clock, self.tapped = pygame.font.Font(None, 24), pygame.time.Clock(), set()
        self.correction, self.num_corrections = [], 0
        if not self.discrete:
            env.unwrapped.on_frame = self.show

    def close(self):
        """End the round after the present step, and the run after that round's training."""
        self.closed = True
        print("the round ends here, and after its training the run; again to stop at once", file=sys.stderr)

    def begin(self, run, number):
        """Begin a round, whose corrections are kept in `run`/corrections_`number`."""
        self.directory, self.title = run / f"corrections_{number}", f"round {number}"
        self.directory.mkdir(exist_ok=True)
        return self

    def corrections(self):
        """obs (T, obs_dim) and actions (T, act_dim) of all corrections in the directory."""
        self.finish()
        files = [load_file(path) for path in sorted(self.directory.glob("*.safetensors"))]
        obs, actions = self.envs.single_observation_space.shape[0], 1 if self.discrete else 2
        empty = {"obs": torch.zeros(0, obs), "actions": torch.zeros(0, actions)}
        return tuple(torch.cat([file[name] for file in (empty, *files)]) for name in ("obs", "actions"))

    def reset(self, starts):
        self.finish()
        self.pygame.event.clear(self.pygame.KEYDOWN)  # typed while nobody drove
        self.tapped = set()

    def finish(self):
        """End the correction that is under way, if any, and write it."""
        if self.correction:
            obs, actions = (
                torch.as_tensor(np.stack(rows), dtype=torch.float32) for rows in zip(*self.correction, strict=True)
            )
            path = self.directory / f"{time.time_ns()}.safetensors"
            save_file({"obs": obs, "actions": actions}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            self.correction, self.num_corrections = [], self.num_corrections + 1
        self.control = False

    def frame(self):
        return self.pygame.surfarray.make_surface(np.transpose(self.env.render(), (1, 0, 2)))

    def show(self):
        """Draw the environment, who drives and what the keys do, and take in what the person did."""
        pygame = self.pygame
        for event in pygame.event.get():
            self.closed |= event.type == pygame.QUIT
            if event.type == pygame.KEYDOWN:
                self.tapped.add(pygame.key.name(event.key))
        self.screen.fill((24, 24, 28))
        self.screen.blit(self.frame(), (0, 60))
        driver, colour = ("YOU", (255, 176, 46)) if self.control else ("novice", (150, 205, 255))
        self.screen.blit(
            self.font.render(f"{driver} in control   corrections: {self.num_corrections}   {self.title}", True, colour),
            (12, 10),
        )
        self.screen.blit(self.font.render(self.help, True, (200, 200, 200)), (12, 34))
        pygame.display.flip()
        self.clock.tick(self.fps)

    def __call__(self, obs, proposed):
        if self.discrete:  # a driving environment shows itself, twenty times a second
            self.show()
        held, self.tapped = self.tapped, set()
        pressed = self.pygame.key.get_pressed()
        held |= {key for key in self.keys if pressed[self.pygame.key.key_code(key)]}
        chosen = [action for key, action in self.keys.items() if key in held]
        if not chosen:
            self.finish()
            return proposed, np.zeros(1, bool)
        action = chosen[0] if self.discrete else np.sum(chosen, axis=0).clip(-1, 1)
        if not self.discrete and not held & {"up", "down", "space"}:
            action[0] = obs[0, 1].clip(-1, 1)  # keep the lane while the speed changes
        self.correction.append((obs[0], np.atleast_1d(action)))
        self.control = True
        return np.array([action], dtype=proposed.dtype).reshape(proposed.shape), np.ones(1, bool)
