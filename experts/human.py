"""A person at the keyboard, as HG-DAgger's expert: actions, and the gate that says who drives."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from experts.driving import import_pygame

# By the beginning of an environment's id: each key with its action and what it does. In Box action
# spaces the actions of all keys that are held are added up, in Discrete ones the first one counts.
ROAD_KEYS = {
    "up": ((0.9, 0.0), "steer up"),
    "down": ((-0.9, 0.0), "steer down"),
    "space": ((0.0, 0.0), "to the middle"),
    "right": ((0.0, 1.0), "faster"),
    "left": ((0.0, -1.0), "slower"),
}
KEYS = {
    "LaneChange": ROAD_KEYS,
    "Slalom": ROAD_KEYS,
    "CartPole": {"left": (0, "push left"), "right": (1, "push right")},
    "Acrobot": {
        "left": (0, "torque clockwise"),
        "right": (2, "torque anticlockwise"),
        "space": (1, "no torque"),
    },
    "MountainCar-": {
        "left": (0, "push left"),
        "right": (2, "push right"),
        "space": (1, "no push"),
    },
    "MountainCarContinuous": {
        "left": ((-1.0,), "push left"),
        "right": ((1.0,), "push right"),
        "space": ((0.0,), "no push"),
    },
    "LunarLander-": {
        "up": (2, "main engine"),
        "left": (1, "left engine"),
        "right": (3, "right engine"),
        "space": (0, "engines off"),
    },
    "LunarLanderContinuous": {
        "up": ((1.0, 0.0), "main engine"),
        "left": ((0.0, -1.0), "left engine"),
        "right": ((0.0, 1.0), "right engine"),
        "space": ((0.0, 0.0), "engines off"),
    },
    "Pendulum": {
        "left": ((2.0,), "torque anticlockwise"),
        "right": ((-2.0,), "torque clockwise"),
        "space": ((0.0,), "no torque"),
    },
}
ARROWS = {  # triangles, in pixels: pygame's font has no arrows
    "up": [(0, 12), (7, 0), (14, 12)],
    "down": [(0, 0), (7, 12), (14, 0)],
    "left": [(12, -1), (0, 6), (12, 13)],
    "right": [(0, -1), (12, 6), (0, 13)],
}

BACKGROUND = (24, 24, 28)
PALE = (200, 200, 200)
WHITE = (255, 255, 255)
BLUE = (52, 92, 150)  # the novice is in control
ORANGE = (226, 120, 20)  # the person is
GREY = (84, 84, 92)  # nobody is
HEADER_HEIGHT = 112  # pixels above the picture: who is in control, the keys, the commands


class HumanExpert:
    """A person in front of a window: holding a key takes over, letting go hands back.

    P pauses, Backspace throws the last correction away, Esc ends the round, and closing the window
    ends the round and the run. `closed` and `round_over` say what has ended.

    A correction is what the person does between taking over and handing back. It is a safetensors
    file with obs (L, obs_dim) and actions, written anew after each step, so that nothing is lost.
    Whole episodes are kept beside the corrections, see `EpisodeRecorder`.

    `envs` is a SyncVectorEnv with one environment, made with render_mode="rgb_array". Raises
    gymnasium.error.Error where there is no screen, or where keys cannot steer.
    """

    def __init__(self, envs, env_id):
        self.action_space = envs.single_action_space
        self.obs_dim = envs.single_observation_space.shape[0]
        self.recorder = EpisodeRecorder(envs.envs[0])
        self.env = envs.envs[0] = self.recorder
        self.drives_car = hasattr(self.env.unwrapped, "on_frame")
        self.keys = self.choose_keys(env_id.split(":")[-1])

        self.closed = False
        self.round_over = False
        self.paused = False
        self.in_control = False
        self.correction = []  # the one under way: pairs of observation and action
        self.paths = []  # of the corrections of this round
        self.tapped = set()  # keys that went down since the last decision
        self.directory = None
        self.place = ""  # which round, which episode
        self.summary = ""  # what the last training came to
        self.next_round = ""
        self.next_frame = 0.0
        self.open_window(env_id)

    # --- The round, as hg_dagger.py asks for it ---

    def begin_round(self, directory, number, num_rounds, num_episodes):
        """Keep the corrections from now on in this directory, and wait for the space bar."""
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.recorder.directory = self.directory.with_name(f"episodes_{number}")
        self.paths = sorted(self.directory.glob("*.safetensors"))
        self.round_over = self.closed
        self.round = f"round {number} of {num_rounds}"
        self.episode = 0
        self.num_episodes = num_episodes
        self.next_round = f"round {number + 1} of {num_rounds}"
        if number == num_rounds:
            self.next_round = "the final evaluation"

        self.place = self.round
        tqdm.write(f"{self.round}: press the space bar in the window to start", file=sys.stderr)
        self.wait_for_space()

    def begin_episode(self):
        """End a correction that is under way, and forget keys typed while nobody drove."""
        self.finish_correction()
        self.episode += 1
        self.place = f"{self.round}   episode {self.episode} of {self.num_episodes}"
        for _ in range(self.fps):  # a second to look at it
            if self.round_over:
                return
            self.draw(GREY, "get ready", [f"Episode {self.episode} of {self.num_episodes}"])
            self.take_events()
        self.take_events()
        self.tapped = set()

    def __call__(self, obs, proposals):
        """The person's actions for obs (1, obs_dim), and whether the person acts, (1,) bool.

        `proposals` are the actions of the novice; they are returned where no key is held.
        """
        if not self.drives_car:
            self.show()
        held = self.held_keys()
        self.tapped = set()
        self.recorder.by_person = bool(held)
        if not held:
            self.finish_correction()
            return proposals, np.zeros(1, dtype=bool)

        action = self.choose_action(held, obs[0])
        if not self.correction:  # names in the order of time
            self.paths.append(self.directory / f"{time.time_ns()}.safetensors")
        self.correction.append((obs[0].astype(np.float32), action))
        self.write_correction()
        self.in_control = True
        return np.array([action], dtype=proposals.dtype), np.ones(1, dtype=bool)

    def corrections(self):
        """All corrections in the directory of this round, in order.

        obs (T, obs_dim) float32 and actions (T, act_dim) float32, or (T,) int64 in a Discrete
        action space. Those from before a run was killed and resumed are among them.
        """
        self.finish_correction()
        self.recorder.write()
        dtype = np.int64 if isinstance(self.action_space, gym.spaces.Discrete) else np.float32
        obs = [np.zeros((0, self.obs_dim), dtype=np.float32)]
        actions = [np.zeros((0, *self.action_space.shape), dtype=dtype)]
        for path in sorted(self.directory.glob("*.safetensors")):
            correction = load_file(path)
            obs.append(correction["obs"])
            actions.append(correction["actions"])
        return np.concatenate(obs), np.concatenate(actions)

    def show_training(self, fraction, num_labels):
        """Call it as often as you like: it draws, and takes events, at most 20 times a second."""
        if self.closed or time.monotonic() < self.next_frame:
            return
        self.next_frame = time.monotonic() + 0.05
        lines = [f"The novice learns from {num_labels:,} labels", self.summary]
        if self.next_round:
            lines.append(f"Next: {self.next_round}")
        self.draw(GREY, "training", lines, fraction)
        self.take_events()

    def watch(self, policy):
        """The policy, with a window that stays alive while it is evaluated."""

        def act(obs):
            if not self.closed and time.monotonic() >= self.next_frame:
                self.next_frame = time.monotonic() + 0.05
                self.draw(GREY, "evaluation", ["The novice is evaluated", self.summary])
                self.take_events()
            return policy.act(obs)

        return SimpleNamespace(act=act)

    def close(self):
        """Close the window; corrections and episodes are on disk."""
        self.closed = True
        self.round_over = True
        if self.drives_car:
            self.env.unwrapped.on_frame = None
        self.pygame.display.quit()

    # --- Keys and corrections ---

    def choose_keys(self, name):
        """For each key its action and what it does."""
        for beginning, keys in KEYS.items():
            if name.startswith(beginning):
                return keys
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise gym.error.Error(
                f"--gate human steers Discrete environments and {', '.join(KEYS)}, not {name}"
            )
        start = int(self.action_space.start)
        meanings = [f"action {start + i}" for i in range(self.action_space.n)]
        if hasattr(self.env.unwrapped, "get_action_meanings"):
            meanings = self.env.unwrapped.get_action_meanings()
        return {str(i): (start + i, meaning) for i, meaning in enumerate(meanings[:10])}

    def held_keys(self):
        """Names of the keys that are down, or were pressed since the last decision."""
        pressed = self.pygame.key.get_pressed()
        down = {key for key in self.keys if pressed[self.pygame.key.key_code(key)]}
        return down | self.tapped.intersection(self.keys)

    def choose_action(self, held, obs):
        """What the held keys mean."""
        chosen = [action for key, (action, _) in self.keys.items() if key in held]
        if isinstance(self.action_space, gym.spaces.Discrete):
            return np.int64(chosen[0])
        action = np.sum(chosen, axis=0).clip(self.action_space.low, self.action_space.high)
        if self.drives_car and not held.intersection(("up", "down", "space")):
            action[0] = obs[1].clip(-1, 1)  # keep the lane while the speed changes
        return action.astype(np.float32)

    def write_correction(self):
        """Write the correction under way beside its file, and rename."""
        obs, actions = zip(*self.correction, strict=True)
        temporary = self.paths[-1].with_suffix(".tmp")
        save_file({"obs": np.stack(obs), "actions": np.stack(actions)}, temporary)
        temporary.replace(self.paths[-1])

    def finish_correction(self):
        """Hand back to the novice."""
        self.in_control = False
        self.correction = []

    def discard_correction(self):
        """Throw the last correction of this round away, the one under way if there is one."""
        self.correction = []
        if self.paths:
            self.paths.pop().unlink()

    # --- The window ---

    def open_window(self, env_id):
        self.pygame = import_pygame()
        try:
            self.pygame.display.init()
            if self.pygame.display.get_driver() in ("dummy", "offscreen"):
                raise self.pygame.error("no display")
            self.pygame.font.init()
            self.env.reset()
            width, height = self.picture().get_size()
            size = (max(760, width), height + HEADER_HEIGHT)
            self.screen = self.pygame.display.set_mode(size)
        except self.pygame.error as error:
            raise gym.error.Error(
                f"--gate human needs a screen ({error}); run it in a desktop session"
            ) from error
        self.pygame.display.set_caption(f"hg_dagger: {env_id}")
        self.font = self.pygame.font.Font(None, 24)
        self.large_font = self.pygame.font.Font(None, 34)
        self.clock = self.pygame.time.Clock()

        # One decision on the road lasts a second; the environment calls this 20 times meanwhile.
        if self.drives_car:
            self.fps = 20
            self.env.unwrapped.on_frame = self.show
        else:
            self.fps = round(self.env.metadata.get("render_fps") or 30)
        self.draw(GREY, "demonstrations", ["The expert demonstrates"])
        self.take_events()

    def take_events(self):
        """What the person did since the last frame."""
        if self.closed:
            return
        for event in self.pygame.event.get():
            if event.type == self.pygame.QUIT:
                tqdm.write("closed: the novice learns from what there is", file=sys.stderr)
                self.close()
                return
            if event.type != self.pygame.KEYDOWN:
                continue
            name = self.pygame.key.name(event.key)
            self.tapped.add(name)
            if name == "p":
                self.paused = not self.paused
            if name == "backspace":
                self.discard_correction()
            if name == "escape" and self.directory and not self.round_over:
                self.round_over = True
                text = f"{self.round} ended: the novice learns, then {self.next_round}"
                tqdm.write(text, file=sys.stderr)

    def wait_for_space(self):
        """Until the space bar was pressed and let go."""
        self.tapped = set()
        lines = [
            self.round.capitalize(),
            self.summary,
            "You watch the novice. When it errs, hold a key to take over; let go to hand back.",
            "Press the space bar to start.",
        ]
        while not self.round_over:
            pressed = self.pygame.key.get_pressed()[self.pygame.K_SPACE]
            if "space" in self.tapped and not pressed:
                return
            self.draw(GREY, "ready", lines)
            self.take_events()

    def show(self):
        """Draw one frame of the episode, and take events; a pause ends in here."""
        if self.round_over:
            return
        if self.in_control:
            self.draw(ORANGE, "YOU are in control")
        elif self.held_keys():
            self.draw(ORANGE, "you take over")
        else:
            self.draw(BLUE, "the novice is in control")
        self.take_events()
        while self.paused and not self.round_over:
            self.draw(GREY, "paused", ["Paused", "Press P to go on."])
            self.take_events()

    def draw(self, colour, status, panel=(), fraction=None):
        """The header, the picture, and where there is a panel its lines and its progress bar."""
        if self.closed:
            return
        self.screen.fill(BACKGROUND)
        width = self.screen.get_width()
        picture = self.picture()
        left = (width - picture.get_width()) // 2
        self.screen.blit(picture, (left, HEADER_HEIGHT))
        frame = self.pygame.Rect(0, 0, width, self.screen.get_height())
        self.pygame.draw.rect(self.screen, colour, frame, width=4)
        self.pygame.draw.rect(self.screen, colour, (0, 0, width, 40))
        self.write(status, (12, 9), WHITE, self.large_font)
        place = f"{self.place}   corrections: {len(self.paths)}"
        self.write(place, (320, 12), WHITE)
        self.draw_keys()
        commands = "P: pause   Backspace: discard the last correction   Esc: end the round"
        self.write(commands, (12, 86), PALE)
        if panel:
            self.draw_panel([line for line in panel if line], fraction)
        self.pygame.display.flip()
        self.clock.tick(self.fps)

    def draw_keys(self):
        """Each key with what it does, lit while it is held."""
        held = self.held_keys()
        left = 12
        for key, (_, meaning) in self.keys.items():
            arrow = [(left + 8 + x, 56 + y) for x, y in ARROWS.get(key, ())]
            indent = 30 if arrow else 8
            text = self.font.render(meaning if arrow else f"{key}  {meaning}", True, WHITE)
            box = self.pygame.Rect(left, 47, indent + text.get_width() + 8, 30)
            colour = ORANGE if key in held else GREY
            self.pygame.draw.rect(self.screen, colour, box, border_radius=6)
            if arrow:
                self.pygame.draw.polygon(self.screen, WHITE, arrow)
            self.screen.blit(text, (left + indent, 54))
            left += box.width + 8

    def draw_panel(self, lines, fraction):
        """Text in the middle of the picture, the first line larger."""
        width, height = self.screen.get_size()
        box = self.pygame.Rect(0, 0, width - 40, 40 + 28 * len(lines) + 28 * (fraction is not None))
        box.center = (width // 2, (height + HEADER_HEIGHT) // 2)
        self.pygame.draw.rect(self.screen, BACKGROUND, box, border_radius=10)
        top = box.top + 18
        for number, line in enumerate(lines):
            font = self.large_font if number == 0 else self.font
            self.write(line, (box.left + 20, top), WHITE if number == 0 else PALE, font)
            top += 28
        if fraction is not None:
            bar = self.pygame.Rect(box.left + 20, top + 6, box.width - 40, 12)
            self.pygame.draw.rect(self.screen, GREY, bar, border_radius=4)
            bar.width = round(bar.width * fraction)
            self.pygame.draw.rect(self.screen, ORANGE, bar, border_radius=4)

    def write(self, text, position, colour, font=None):
        self.screen.blit((font or self.font).render(text, True, colour), position)

    def picture(self):
        """What the environment renders, as a surface."""
        pixels = self.env.render()
        return self.pygame.surfarray.make_surface(np.transpose(pixels, (1, 0, 2)))


class EpisodeRecorder(gym.Wrapper):
    """Writes each episode to `directory`, with a flag for each step that says who acted.

    A safetensors file has obs (T + 1, obs_dim), actions (T, act_dim) or (T,), rewards (T,),
    terminated (T,), truncated (T,) and by_person (T,). `python -m experts.record --run RUN` makes a
    Minari data set of them.
    """

    def __init__(self, env):
        super().__init__(env)
        self.directory = None  # until a round begins, nothing is written
        self.by_person = False  # of the next step
        self.obs = []
        self.steps = []

    def reset(self, **kwargs):
        self.write()
        obs, info = super().reset(**kwargs)
        self.obs = [obs]
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.obs.append(obs)
        self.steps.append((action, float(reward), terminated, truncated, self.by_person))
        return obs, reward, terminated, truncated, info

    def write(self):
        """Write the episode so far, whole or ended early, and forget it."""
        if self.directory and self.steps:
            names = ("actions", "rewards", "terminated", "truncated", "by_person")
            columns = [np.array(column) for column in zip(*self.steps, strict=True)]
            tensors = dict(zip(names, columns, strict=True)) | {"obs": np.array(self.obs)}
            self.directory.mkdir(exist_ok=True)
            temporary = self.directory / f"{time.time_ns()}.tmp"
            save_file(tensors, temporary)
            temporary.replace(temporary.with_suffix(".safetensors"))
        self.steps = []
