"""Picture and video of a round of HG-DAgger at the keyboard; the keys are pressed by this script.

    python -m benchmark.window

Writes benchmark/figures/window.png, the window in six states, and window.mp4, the first round. The
run is that of docs/keyboard.md, in little: the novice has learned from one demonstration.
"""

import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro
from moviepy import ImageSequenceClip

import hg_dagger
from experts.driving import import_pygame
from experts.human import HumanExpert

FIGURES = Path(__file__).parent / "figures"
FLAGS = ["--env-id", "LaneChangeDisturbed-v0", "--expert", "experts.driving:prefers_left"]
FLAGS += ["--gate", "human", "--num-demos", "1", "--num-rounds", "1", "--episodes-per-round", "2"]
FLAGS += ["--num-updates", "2000", "--eval-episodes", "50"]
WAITING = 20  # frames in which the script reads what the window says
DRIVING = {  # in frames of the episodes: the key that goes down and the one that goes up
    5: ("up", None),
    45: (None, "up"),
    80: ("p", None),
}


class Script:
    """Presses keys, and keeps each frame of the window with what it says."""

    def __init__(self, pygame):
        self.pygame = pygame
        self.held = defaultdict(bool)  # by the code of a key, as pygame's own answer
        self.frames = []
        self.num_driven = 0
        self.draw = HumanExpert.draw

    def press(self, key):
        code = self.pygame.key.key_code(key)
        self.pygame.event.post(self.pygame.event.Event(self.pygame.KEYDOWN, key=code))

    def on_draw(self, person, colour, status, *others, **options):
        self.draw(person, colour, status, *others, **options)
        if person.closed:
            return
        person.fps = 0  # as fast as the machine can
        pixels = self.pygame.surfarray.array3d(person.screen)
        self.frames.append((status, np.transpose(pixels, (1, 0, 2)).copy()))
        waited = [said for said, _ in self.frames[-WAITING:]].count(status)
        if status in ("ready", "round over") and waited == WAITING:
            self.press("space")
        if status == "paused" and waited == WAITING:
            self.press("p")
        if "control" in status or "take over" in status:
            self.num_driven += 1
            down, up = DRIVING.get(self.num_driven, (None, None))
            if down:
                self.press(down)
                self.held[self.pygame.key.key_code(down)] = True
            if up:
                self.held[self.pygame.key.key_code(up)] = False


def main():
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    pygame = import_pygame()
    script = Script(pygame)
    pygame.display.get_driver = lambda: "a window that nobody sees"
    pygame.key.get_pressed = lambda: script.held
    HumanExpert.draw = lambda *args, **options: script.on_draw(*args, **options)
    with tempfile.TemporaryDirectory() as run_dir:
        hg_dagger.main(tyro.cli(hg_dagger.Args, args=[*FLAGS, "--run-dir", run_dir]))

    by_status = {}
    for status, frame in script.frames:
        by_status.setdefault(status, []).append(frame)
    states = ["ready", "you take over", "YOU are in control", "the novice is in control"]
    states += ["round over", "training"]
    tiles = [by_status[status][len(by_status[status]) // 2] for status in states]
    rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in range(0, 6, 2)]
    picture = np.transpose(np.concatenate(rows), (1, 0, 2))
    surface = pygame.surfarray.make_surface(picture)
    half = pygame.transform.smoothscale(surface, [length // 2 for length in surface.get_size()])
    pygame.image.save(half, FIGURES / "window.png")
    clip = ImageSequenceClip([frame for _, frame in script.frames], fps=20)
    clip.write_videofile(str(FIGURES / "window.mp4"), logger=None)


if __name__ == "__main__":
    main()
