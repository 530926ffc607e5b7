"""A person at the keyboard, as HG-DAgger's expert: actions, and the gate that says who drives."""

import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from safetensors.numpy import load_file, save_file

from experts.driving import import_pygame

# Keys have the names that pygame gives them.
DRIVING_KEYS = {
    "up": (0.9, 0.0),
    "down": (-0.9, 0.0),
    "right": (0.0, 1.0),
    "left": (0.0, -1.0),
    "space": (0.0, 0.0),
}
DISCRETE_KEYS = {  # by the beginning of the environment's id; elsewhere the digits are the keys
    "CartPole": {"left": 0, "right": 1},
    "Acrobot": {"left": 0, "space": 1, "right": 2},
    "LunarLander": {"space": 0, "left": 1, "up": 2, "right": 3},
}
HEADER_HEIGHT = 60  # pixels above the picture, for two lines of text


class HumanExpert:
    """A person in front of a window: holding a key takes over, letting go hands back.

    On the driving environments, up and down steer to that side of the picture, right and left
    change the speed, and the space bar steers to the middle. In a Discrete action space each key is
    one action. The window shows which key does what, who drives, and the title of the round.

    A correction is what the person does between taking over and handing back. It is a safetensors
    file with obs (L, obs_dim) and actions, written anew after each step, so that nothing is lost.

    `envs` is a SyncVectorEnv with one environment, made with render_mode="rgb_array". Raises
    gymnasium.error.Error where there is no screen, or where keys cannot steer.
    """

    def __init__(self, envs, env_id):
        self.env = envs.envs[0]
        self.obs_dim = envs.single_observation_space.shape[0]
        self.action_space = envs.single_action_space
        self.drives_car = hasattr(self.env.unwrapped, "on_frame")
        self.choose_keys(env_id)

        self.closed = False  # True once the person has closed the window
        self.num_corrections = 0
        self.in_control = False
        self.correction = []  # the one under way: pairs of observation and action
        self.tapped = set()  # keys that went down since the last decision
        self.directory = None
        self.title = ""
        self.open_window(env_id)

    def choose_keys(self, env_id):
        """The action of each key, and the line of help."""
        if self.drives_car:
            self.keys = DRIVING_KEYS
            self.help = "up, down: steer   right, left: faster, slower   space: to the middle"
            return

        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise gym.error.Error(
                f"--gate human steers the driving environments and Discrete ones, not {env_id}"
            )
        numbers = {str(i): i for i in range(min(10, self.action_space.n))}
        for name, keys in DISCRETE_KEYS.items():
            if env_id.startswith(name):
                numbers = keys
        start = int(self.action_space.start)
        self.keys = {key: start + number for key, number in numbers.items()}
        self.help = "   ".join(f"{key}: {action}" for key, action in self.keys.items())

    def open_window(self, env_id):
        self.pygame = import_pygame()
        try:
            self.pygame.display.init()
            if self.pygame.display.get_driver() in ("dummy", "offscreen"):
                raise self.pygame.error("no display")
            self.pygame.font.init()
            self.env.reset()
            width, height = self.picture().get_size()
            size = (max(640, width), height + HEADER_HEIGHT)
            self.screen = self.pygame.display.set_mode(size)
        except self.pygame.error as error:
            raise gym.error.Error(
                f"--gate human needs a screen ({error}); run it in a desktop session"
            ) from error
        self.pygame.display.set_caption(f"hg_dagger: {env_id}")
        self.font = self.pygame.font.Font(None, 24)
        self.clock = self.pygame.time.Clock()

        # One decision of a driver lasts a second; the environment calls this 20 times meanwhile.
        if self.drives_car:
            self.fps = 20
            self.env.unwrapped.on_frame = self.show
        else:
            self.fps = self.env.metadata.get("render_fps", 30)

    def begin_round(self, directory, title):
        """Keep the corrections from now on in this directory."""
        self.finish_correction()
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.title = title

    def begin_episode(self):
        """End a correction that is under way, and forget keys typed while nobody drove."""
        self.finish_correction()
        self.pygame.event.clear(self.pygame.KEYDOWN)
        self.tapped = set()

    def __call__(self, obs, proposals):
        """The person's actions for obs (1, obs_dim), and whether the person drives, (1,) bool.

        `proposals` are the actions of the novice; they are returned where no key is held.
        """
        if not self.drives_car:
            self.show()
        keys = self.held_keys()
        if not keys.intersection(self.keys):
            self.finish_correction()
            return proposals, np.zeros(1, dtype=bool)

        action = self.choose_action(keys, obs[0])
        if not self.correction:  # names in the order of time
            self.path = self.directory / f"{time.time_ns()}.safetensors"
        self.correction.append((obs[0].astype(np.float32), action))
        self.write_correction()
        self.in_control = True
        actions = np.array([action], dtype=proposals.dtype)
        return actions, np.ones(1, dtype=bool)

    def held_keys(self):
        """Names of the keys that are down, or were pressed since the last decision."""
        pressed = self.pygame.key.get_pressed()
        held = self.tapped
        for key in self.keys:
            if pressed[self.pygame.key.key_code(key)]:
                held.add(key)
        self.tapped = set()
        return held

    def choose_action(self, held, obs):
        """What the held keys mean: in a Discrete space the first of them, in a car their sum."""
        chosen = [action for key, action in self.keys.items() if key in held]
        if not self.drives_car:
            return np.int64(chosen[0])
        action = np.sum(chosen, axis=0).clip(-1, 1)
        if not held.intersection(("up", "down", "space")):
            action[0] = obs[1].clip(-1, 1)  # keep the lane while the speed changes
        return action.astype(np.float32)

    def corrections(self):
        """All corrections in the directory of this round, in order.

        obs (T, obs_dim) float32 and actions (T, act_dim) float32, or (T,) int64 in a Discrete
        action space. Those from before a run was killed and resumed are among them.
        """
        self.finish_correction()
        dtype = np.float32 if self.drives_car else np.int64
        obs = [np.zeros((0, self.obs_dim), dtype=np.float32)]
        actions = [np.zeros((0, *self.action_space.shape), dtype=dtype)]
        for path in sorted(self.directory.glob("*.safetensors")):
            correction = load_file(path)
            obs.append(correction["obs"])
            actions.append(correction["actions"])
        return np.concatenate(obs), np.concatenate(actions)

    def finish_correction(self):
        """Hand back to the novice."""
        self.in_control = False
        if self.correction:
            self.correction = []
            self.num_corrections += 1

    def write_correction(self):
        """Write the correction under way beside its file, and rename."""
        obs, actions = zip(*self.correction, strict=True)
        temporary = self.path.with_suffix(".tmp")
        save_file({"obs": np.stack(obs), "actions": np.stack(actions)}, temporary)
        temporary.replace(self.path)

    def show(self):
        """Draw one frame, and take in what the person did since the last one."""
        for event in self.pygame.event.get():
            if event.type == self.pygame.QUIT:
                self.closed = True
            if event.type == self.pygame.KEYDOWN:
                self.tapped.add(self.pygame.key.name(event.key))

        self.screen.fill((24, 24, 28))
        self.screen.blit(self.picture(), (0, HEADER_HEIGHT))
        driver = "YOU" if self.in_control else "novice"
        colour = (255, 176, 46) if self.in_control else (150, 205, 255)
        status = f"{driver} in control   corrections: {self.num_corrections}   {self.title}"
        self.screen.blit(self.font.render(status, True, colour), (12, 10))
        self.screen.blit(self.font.render(self.help, True, (200, 200, 200)), (12, 34))
        self.pygame.display.flip()
        self.clock.tick(self.fps)

    def picture(self):
        """What the environment renders, as a surface."""
        pixels = self.env.render()
        return self.pygame.surfarray.make_surface(np.transpose(pixels, (1, 0, 2)))
