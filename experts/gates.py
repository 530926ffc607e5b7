"""Who decides that the expert takes over from the novice: a rule that stands in for a person, or a person at the keys.

A gate is called with obs (N, obs_dim) and the novice's actions and returns the expert's actions, of the same shape, and
`control` (N,) bool, True where the expert acts. `reset(starts)` tells it where episodes begin; `closed` turns True when
the person has had enough.
"""

import os
import time

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import save_file

LOOK_AHEAD = 3  # decisions
KEYS = {  # of Discrete environments, by the names that pygame gives them; elsewhere the digits
    "CartPole": {"left": 0, "right": 1},
    "Acrobot": {"left": 0, "space": 1, "right": 2},
    "LunarLander": {"space": 0, "left": 1, "up": 2, "right": 3},
}


class OpenGate:
    """The expert acts in every step: demonstrations."""

    closed = False

    def __init__(self, expert):
        self.expert, self.reset = expert, getattr(expert, "reset", lambda starts: None)

    def __call__(self, obs, proposed):
        return self.expert(obs), np.ones(len(obs), bool)


class SimulatedGate:
    """Takes over where the novice is about to err seriously, by a rule with hysteresis.

    On the driving environments: where the novice, left alone, would hit something or leave the road within the next
    three decisions; it hands back as soon as that is not so. Elsewhere: where the running mean over `steps` steps of
    the disagreement exceeds `enter`; it hands back after `steps` steps in a row with a disagreement below `leave`. The
    disagreement is the root mean square difference of the actions, in standard deviations of the demonstrated ones, or
    0 or 1 for categories. The expert is asked at each step, but only what it does in control becomes a label.
    """

    closed = False

    def __init__(self, envs, expert, policy, enter, leave, steps):
        self.envs, self.expert, self.policy, self.std = envs, expert, policy, policy.action_moments[1].cpu().numpy()
        self.enter, self.leave, self.steps = enter, leave, steps
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
            return actions, np.array([env.unwrapped.ends_badly(novice, LOOK_AHEAD) for env in self.envs.envs])
        if self.discrete:
            differs = (actions != proposed).astype(float)
        else:
            differs = np.sqrt(np.square((actions - proposed) / self.std).mean(-1))
        self.mean += (differs - self.mean) / self.steps
        self.calm = np.where(differs < self.leave, self.calm + 1, 0)
        self.control = np.where(self.control, self.calm < self.steps, self.mean > self.enter)
        return actions, self.control


class HumanGate:
    """A person at the keyboard, in a window: a held key takes over, letting go hands back, closing the window ends.

    On the driving environments up and down steer to that side of the picture, right and left change the speed, and the
    space bar holds the middle. Elsewhere the action space must be Discrete; the picture says which key means what, who
    drives, and `title`. `envs` has one environment, which renders `rgb_array`. A correction is in `directory`, as
    safetensors with obs (L, obs_dim) and actions (L, act_dim), as soon as it ends.
    """

    def __init__(self, envs, env_id, directory):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self.pygame, (env,), space, self.discrete = pygame, envs.envs, envs.single_action_space, True
        name = next((name for name in KEYS if env_id.startswith(name)), None)
        if hasattr(env.unwrapped, "on_frame"):
            self.discrete, env.unwrapped.on_frame = False, self.show
            self.keys = {"up": (0.9, 0), "down": (-0.9, 0), "right": (0, 1), "left": (0, -1), "space": (0, 0)}
            self.help = "up, down: steer   right, left: faster, slower   space: to the middle"
        elif isinstance(space, gym.spaces.Discrete):
            self.keys = KEYS[name] if name else {str(i): i for i in range(min(10, int(space.n)))}
            self.keys = {key: int(space.start) + i for key, i in self.keys.items()}
            self.help = "   ".join(f"{key}: {action}" for key, action in self.keys.items())
        else:
            raise ValueError(f"--gate human steers the driving environments and Discrete ones, not {env_id}.")
        self.env, self.closed, self.control, self.title = env, False, np.zeros(1, bool), ""
        self.fps = 20 if not self.discrete else env.metadata.get("render_fps", 30)
        try:
            pygame.display.init()
            if pygame.display.get_driver() in ("dummy", "offscreen"):
                raise pygame.error("no display")
            pygame.font.init()
            self.screen = pygame.display.set_mode((max(640, self.frame().get_width()), self.frame().get_height() + 60))
        except pygame.error as error:
            raise ValueError(f"--gate human needs a screen ({error}); run it in a desktop session.") from error
        pygame.display.set_caption(f"hg_dagger: {env_id}")
        self.font, self.clock, self.tapped = pygame.font.Font(None, 24), pygame.time.Clock(), set()
        self.directory, self.correction, self.num_corrections = directory, [], 0

    def reset(self, starts):
        self.finish()

    def finish(self):
        """End the correction that is under way, if any, and write it."""
        if self.correction:
            obs, actions = (
                torch.as_tensor(np.stack(rows), dtype=torch.float32) for rows in zip(*self.correction, strict=True)
            )
            self.directory.mkdir(exist_ok=True)
            path = self.directory / f"{time.time_ns()}.safetensors"
            save_file({"obs": obs, "actions": actions}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            self.correction, self.num_corrections = [], self.num_corrections + 1
        self.control = np.zeros(1, bool)

    def frame(self):
        if not self.env.has_reset:
            self.env.reset()
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
        driver, colour = ("YOU", (255, 176, 46)) if self.control[0] else ("novice", (150, 205, 255))
        self.screen.blit(
            self.font.render(f"{driver} in control   {self.num_corrections} corrections   {self.title}", True, colour),
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
            return proposed, self.control
        action = chosen[0] if self.discrete else np.sum(chosen, axis=0).clip(-1, 1)
        self.correction.append((obs[0], np.atleast_1d(action)))
        self.control = np.ones(1, bool)
        return np.array([action], dtype=proposed.dtype).reshape(proposed.shape), self.control
