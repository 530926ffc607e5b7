"""A person at the keyboard, as HG-DAgger's expert: actions, and the gate that says who drives."""

import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from experts.driving import import_pygame

# By the beginning of an environment's id: each key with its action and what it does. In Box action
# spaces the actions of all keys that are held are added up, in Discrete ones the first of the table
# counts. "LunarLander-" is not the beginning of LunarLanderContinuous.
ROAD_KEYS = {
    "up": ((0.9, 0.0), "upper lane"),
    "down": ((-0.9, 0.0), "lower lane"),
    "space": ((0.0, 0.0), "middle lane"),
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
        "left": (1, "push left"),
        "right": (3, "push right"),
        "space": (0, "engines off"),
    },
    "LunarLanderContinuous": {
        "up": ((1.0, 0.0), "main engine"),
        "left": ((0.0, -1.0), "push left"),
        "right": ((0.0, 1.0), "push right"),
        "space": ((0.0, 0.0), "engines off"),
    },
    "Pendulum": {
        "left": ((2.0,), "torque anticlockwise"),
        "right": ((-2.0,), "torque clockwise"),
        "space": ((0.0,), "no torque"),
    },
}
GOALS = {  # by the beginning of an environment's id, too
    "LaneChange": "Choose a side, pass the red car there in every episode, reach the white line.",
    "Slalom": "Choose a side of each red car for all episodes, and reach the white line.",
    "CartPole": "Keep the pole upright, and the cart in the picture.",
    "Acrobot": "Swing the tip above the line.",
    "MountainCar": "Reach the flag.",
    "LunarLander": "Land softly between the flags.",
    "Pendulum": "Swing the pendulum up, and keep it there.",
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
PANEL_HEIGHT = 176  # and below it: what happens, and what comes next


class HumanExpert:
    """A person in front of a window: holding a key takes over, letting go hands back.

    It answers the calls of hg_dagger.py's SimulatedGate. P pauses, Backspace discards the last
    correction, Esc ends the round, and closing the window ends the round and the run. `closed` and
    `round_over` say what has ended.

    A correction is what the person does between taking over and handing back. It is a safetensors
    file with obs (L, obs_dim) and actions, written anew after each step, so that nothing is lost.
    Whole episodes are kept beside the corrections, see `EpisodeRecorder`.

    `args` are those of hg_dagger.py, `envs` is a list of one environment, made with
    render_mode="rgb_array", and `run` is the directory of the run. Raises gymnasium.error.Error
    where there is no screen, or where keys cannot steer.
    """

    def __init__(self, args, envs, run):
        self.args = args
        self.run = Path(run)
        self.env = envs[0] = self.recorder = EpisodeRecorder(envs[0])
        self.action_space = self.env.action_space
        self.obs_dim = self.env.observation_space.shape[0]
        self.drives_car = hasattr(self.env.unwrapped, "on_frame")
        name = args.env_id.split(":")[-1]
        self.keys = self.choose_keys(name)
        goals = [goal for beginning, goal in GOALS.items() if name.startswith(beginning)]
        self.goal = goals[0] if goals else ""

        self.stage = "waiting"  # then "driving", and "review" after the last episode of a round
        self.closed = False
        self.round_over = False
        self.paused = False
        self.correction = []  # the one under way: pairs of observation and action
        self.path = None  # of its file
        self.lengths = {}  # of the corrections of this round, in steps, by their paths
        self.tapped = set()  # keys that went down since the last decision
        self.ignored = set()  # keys that count for nothing until they are let go
        self.round = ""  # in words, as "round 1 of 2"
        self.episode = 0  # of this round, from 1 on; 0 before the first
        self.message = ""  # what the last command did
        self.next_round = ""
        self.resume = f"; go on later with the same flags and --resume {self.run}"
        self.bar = None
        self.next_frame = 0.0
        self.open_window(args.env_id)

    # --- The calls of hg_dagger.py ---

    def progress(self, **kwargs):
        """The progress bar of the training, which also keeps the window alive."""
        self.bar = WindowProgress(self, **kwargs)
        return self.bar

    def begin_round(self, i, seed):
        """Keep the corrections from now on in run/corrections_{i}; wait for the space bar."""
        self.directory = self.run / f"corrections_{i}"
        self.directory.mkdir(exist_ok=True)
        self.recorder.directory = self.run / f"episodes_{i}"
        self.recorder.result = ""
        paths = sorted(self.directory.glob("*.safetensors"))
        self.lengths = {path: len(load_file(path)["obs"]) for path in paths}
        self.round_over = self.closed
        self.paused = False
        self.message = ""
        self.episode = 0
        self.round = f"round {i} of {self.args.num_rounds}"
        self.next_round = f"round {i + 1} of {self.args.num_rounds}"
        self.resume = f"; go on later with the same flags and --resume {self.run}"
        if i == self.args.num_rounds:
            self.next_round = "the final evaluation"
            self.resume += f", for another round with --num-rounds {i + 1}"

        lines = [
            self.round.capitalize(),
            self.goal,
            f"Before this round: {self.bar.postfix}" if self.bar.postfix else "",
            "You watch the novice. When it errs, hold a key to take over; let go to hand back.",
            "Press the space bar to start.",
        ]
        if self.lengths:
            lines.insert(-1, "The corrections from before the run was stopped are kept.")
        if not self.closed:
            text = f"{self.round}: press the space bar in the window to start"
            tqdm.write(text, file=sys.stderr)
        self.wait_for_space("ready", lambda: lines)
        self.stage = "driving"

    def begin_episode(self, num_envs):
        """End a correction that is under way, and forget keys typed while nobody drove."""
        self.correction = []
        if self.round_over:
            return
        result = self.last_result()
        self.recorder.result = ""
        self.episode += 1
        for _ in range(2 * self.fps):  # two seconds to look at it
            if self.round_over:
                return
            title = f"Episode {self.episode} of {self.args.episodes_per_round}"
            self.draw(GREY, "get ready", [title, result, self.message])
            self.take_events()
            self.wait_in_pause()
            self.tapped = set()
        self.take_events()
        self.tapped = set()
        self.message = ""

    def __call__(self, obs, proposals, running):
        """The person's actions for obs (1, obs_dim), and whether the person acts, (1,) bool.

        `proposals` are the actions of the novice; they are returned where no key is held.
        """
        if not self.drives_car:
            self.show()
        held = [] if self.closed else self.held_keys()
        self.tapped = set()
        self.recorder.by_person = bool(held)
        if not held:
            self.correction = []
            return proposals, np.zeros(1, dtype=bool)

        action = self.choose_action(held, obs[0])
        self.correction.append((obs[0].astype(np.float32), action))
        self.write_correction()
        return np.array([action], dtype=proposals.dtype), np.ones(1, dtype=bool)

    def end_round(self):
        """Let the person look back; then lists of the states, labels and states at take-over.

        States are (L, obs_dim) float32 and labels (L, act_dim) float32, or (L,) int64 in a Discrete
        action space, one array for each correction in the directory of this round. Those from
        before a run was killed and resumed are among them.
        """
        self.correction = []
        self.recorder.write()
        self.stage = "review"
        self.message = ""
        self.wait_for_space("round over", self.review)
        self.stage = "waiting"
        if not self.closed:
            text = f"{self.round} is over: the novice learns, then {self.next_round}"
            tqdm.write(text, file=sys.stderr)
        self.draw(GREY, "training", ["The novice learns"])

        dtype = np.int64 if isinstance(self.action_space, gym.spaces.Discrete) else np.float32
        states = [np.zeros((0, self.obs_dim), dtype=np.float32)]
        labels = [np.zeros((0, *self.action_space.shape), dtype=dtype)]
        for path in sorted(self.directory.glob("*.safetensors")):
            correction = load_file(path)
            states.append(correction["obs"])
            labels.append(correction["actions"])
        return states, labels, [state[:1] for state in states]

    def review(self):
        """What the window says after the last episode of a round."""
        return [
            f"{self.round.capitalize()} is over",
            self.last_result(),
            f"Of this round: {self.count()}. Backspace discards the last correction.",
            self.message,
            f"Press the space bar: the novice learns, then {self.next_round}.",
        ]

    def show_training(self, fraction):
        """Call it as often as you like: it draws, and takes events, at most ten times a second."""
        if self.closed or time.monotonic() < self.next_frame:
            return
        self.next_frame = time.monotonic() + 0.1
        lines = ["The novice learns", self.bar.postfix]
        if self.next_round:
            lines.append(f"Next: {self.next_round}")
        self.draw(GREY, "training", lines, fraction, wait=False)
        self.take_events()

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
        """The keys that act: down now, or pressed since the last decision; one if Discrete."""
        pressed = self.pygame.key.get_pressed()
        down = {key for key in self.keys if pressed[self.pygame.key.key_code(key)]}
        self.ignored &= down
        held = []
        for key in self.keys:
            is_tapped = self.stage == "driving" and not self.paused and key in self.tapped
            if (is_tapped or key in down) and key not in self.ignored:
                held.append(key)
        return held[:1] if isinstance(self.action_space, gym.spaces.Discrete) else held

    def choose_action(self, held, obs):
        """What the held keys mean."""
        chosen = [self.keys[key][0] for key in held]
        if isinstance(self.action_space, gym.spaces.Discrete):
            return np.int64(chosen[0])
        action = np.sum(chosen, axis=0).clip(self.action_space.low, self.action_space.high)
        if self.drives_car and not {"up", "down", "space"}.intersection(held):
            action[0] = obs[1].clip(-1, 1)  # y / 4, as is the target: the car keeps its lane
        return action.astype(np.float32)

    def write_correction(self):
        """Write the correction under way beside its file, and rename."""
        if len(self.correction) == 1:
            last = max((int(path.stem) for path in self.lengths), default=-1)
            self.path = self.directory / f"{last + 1:05}.safetensors"
            self.message = ""
        obs, actions = zip(*self.correction, strict=True)
        temporary = self.path.with_suffix(".tmp")
        save_file({"obs": np.stack(obs), "actions": np.stack(actions)}, temporary)
        temporary.replace(self.path)
        self.lengths[self.path] = len(self.correction)

    def discard_correction(self):
        """Throw the last correction of this round away, the one under way if there is one."""
        self.correction = []
        self.tapped = set()
        self.ignored = set(self.keys)  # a key that is held would begin the rest of it anew
        self.message = "There is no correction to discard."
        if self.lengths:
            path, length = self.lengths.popitem()
            path.unlink()
            self.message = f"Discarded: the last correction (labels: {length})."

    def count(self):
        return f"corrections: {len(self.lengths)}, labels: {sum(self.lengths.values())}"

    def last_result(self):
        """How the last episode of this round went."""
        if not self.recorder.result:
            return ""
        return f"Episode {self.episode}: {self.recorder.result}"

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
            size = (max(760, width), HEADER_HEIGHT + height + PANEL_HEIGHT)
            self.screen = self.pygame.display.set_mode(size)
        except self.pygame.error as error:
            raise gym.error.Error(
                f"--gate human needs a screen ({error}); run it in a desktop session"
            ) from error
        self.pygame.display.set_caption(f"hg_dagger: {env_id}")
        self.font = self.pygame.font.Font(None, 24)
        self.large_font = self.pygame.font.Font(None, 34)
        self.clock = self.pygame.time.Clock()

        # An action on the road is held for two seconds; meanwhile `show` is called 40 times.
        if self.drives_car:
            self.fps = 20
            self.env.unwrapped.on_frame = self.show
        else:
            self.fps = round(self.env.metadata.get("render_fps") or 30)
        self.draw(GREY, "training", ["The novice learns", self.goal])
        self.take_events()

    def take_events(self):
        """What the person did since the last frame."""
        if self.closed:
            return
        for event in self.pygame.event.get():
            if event.type == self.pygame.QUIT:
                text = f"closed: the novice learns from what there is{self.resume}"
                tqdm.write(text, file=sys.stderr)
                self.close()
                return
            if event.type == self.pygame.KEYDOWN:
                self.take_key(self.pygame.key.name(event.key))

    def take_key(self, name):
        """A key that went down."""
        self.tapped.add(name)
        if name == "backspace" and self.stage != "waiting":
            self.discard_correction()
        if name == "p" and self.stage == "driving":
            self.paused = not self.paused
            self.tapped = set()  # what was typed before counts for nothing after a pause
        if name == "escape" and self.stage == "driving":
            self.round_over = True

    def wait_for_space(self, status, lines):
        """Until the space bar is pressed; `lines()` is what the window says meanwhile."""
        self.tapped = set()
        while not self.closed and "space" not in self.tapped:
            self.draw(GREY, status, lines())
            self.take_events()
        self.tapped = set()

    def wait_in_pause(self):
        """Until P is pressed again, if it was pressed."""
        while self.paused and not self.round_over:
            self.draw(GREY, "paused", ["Paused", self.goal, self.message, "Press P to go on."])
            self.take_events()

    def show(self):
        """Draw one frame of the episode, and take events; a pause ends in here."""
        if self.round_over:
            return
        held = self.held_keys()
        if self.correction and held:
            self.draw(ORANGE, "YOU are in control")
        elif self.correction:
            self.draw(ORANGE, "you hand back")
        elif held:
            self.draw(ORANGE, "you take over")
        else:
            self.draw(BLUE, "the novice is in control")
        self.take_events()
        self.wait_in_pause()

    def commands(self):
        """What other keys do at this moment."""
        discard = "Backspace: discard the last correction"
        if self.stage == "driving":
            return f"P: {'go on' if self.paused else 'pause'}   {discard}   Esc: end the round"
        if self.stage == "review":
            return f"Space: go on   {discard}"
        return "Close the window to end the run: the novice learns from what there is."

    def draw(self, colour, status, panel=(), fraction=None, wait=True):
        """The header, the picture, and below it lines of text and a progress bar.

        It waits for the time of the next frame, unless the training would wait for it.
        """
        if self.closed:
            return
        self.screen.fill(BACKGROUND)
        width, height = self.screen.get_size()
        picture = self.picture()
        left = (width - picture.get_width()) // 2
        self.screen.blit(picture, (left, HEADER_HEIGHT))
        frame = self.pygame.Rect(0, 0, width, height)
        self.pygame.draw.rect(self.screen, colour, frame, width=4)
        self.pygame.draw.rect(self.screen, colour, (0, 0, width, 40))
        self.write(status, (12, 9), WHITE, self.large_font)
        place = self.round
        if self.episode > 0:
            place += f"   episode {self.episode} of {self.args.episodes_per_round}"
        if self.stage != "waiting":
            place += f"   {self.count()}"
        self.write(place, (320, 12), WHITE)
        self.draw_keys()
        self.write(self.commands(), (12, 86), PALE)
        self.draw_panel(panel or [self.goal, self.message], fraction)
        self.pygame.display.flip()
        if wait:
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
        """Text below the picture, the first line larger, and a progress bar."""
        title, *others = lines
        top = self.screen.get_height() - PANEL_HEIGHT + 12
        self.write(title, (12, top), WHITE, self.large_font)
        top += 32
        for line in filter(None, others):
            self.write(line, (12, top), PALE)
            top += 24
        if fraction is not None:
            bar = self.pygame.Rect(12, top + 6, self.screen.get_width() - 24, 12)
            self.pygame.draw.rect(self.screen, GREY, bar, border_radius=4)
            bar.width = round(bar.width * fraction)
            self.pygame.draw.rect(self.screen, ORANGE, bar, border_radius=4)

    def write(self, text, position, colour, font=None):
        self.screen.blit((font or self.font).render(text, True, colour), position)

    def picture(self):
        """What the environment renders, as a surface."""
        pixels = self.env.render()
        return self.pygame.surfarray.make_surface(np.transpose(pixels, (1, 0, 2)))


class WindowProgress(tqdm):
    """A progress bar that shows the round's training in the window, too, and closes it."""

    def __init__(self, window, **kwargs):
        super().__init__(**kwargs)
        self.postfix = ""  # a bar that is disabled has none
        self.window = window
        self.count = 0
        self.updates_per_round = window.args.num_updates // (window.args.num_rounds + 1)

    def update(self, n=1):
        super().update(n)
        self.count += n
        self.window.show_training(self.count % self.updates_per_round / self.updates_per_round)

    def close(self):
        super().close()
        if not self.window.closed:  # tqdm closes a bar again when it is deleted
            self.window.close()


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
        self.result = ""  # of the last episode, in words
        self.obs = []
        self.steps = []

    def reset(self, **kwargs):
        self.write()
        obs, info = super().reset(**kwargs)
        self.obs = [np.array(obs)]
        return obs, info

    def step(self, action):
        taken = np.array(action)  # a copy, in case the environment changes its action
        obs, reward, terminated, truncated, info = super().step(action)
        self.info = info
        self.obs.append(np.array(obs))
        self.steps.append((taken, float(reward), terminated, truncated, self.by_person))
        return obs, reward, terminated, truncated, info

    def write(self):
        """Write the episode so far, whole or ended early, and forget it."""
        if self.directory and self.steps:
            names = ("actions", "rewards", "terminated", "truncated", "by_person")
            columns = [np.array(column) for column in zip(*self.steps, strict=True)]
            tensors = dict(zip(names, columns, strict=True)) | {"obs": np.array(self.obs)}
            self.directory.mkdir(exist_ok=True)
            numbers = [int(path.stem) for path in self.directory.glob("*.safetensors")]
            temporary = self.directory / f"{max(numbers, default=-1) + 1:05}.tmp"
            save_file(tensors, temporary)
            temporary.replace(temporary.with_suffix(".safetensors"))
            self.result = f"return {tensors['rewards'].sum():.2f}"
            if "is_success" in self.info:
                self.result += ", success" if self.info["is_success"] else ", failed"
            elif not (tensors["terminated"][-1] or tensors["truncated"][-1]):
                self.result += ", broken off"
        self.steps = []
