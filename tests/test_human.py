"""The person at the keyboard: what keys do, what is on disk, and what ends a round or the run."""

import io
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import hg_dagger
from experts import human
from experts.human import EpisodeRecorder, HumanExpert
from tests.test_dagger import LAMPS, as_if_alone, main, only_run, results_in  # noqa: F401

RUN = [*LAMPS, "--gate", "human", "--num-demos", "2", "--num-rounds", "2", "--num-updates", "30"]
RUN += ["--episodes-per-round", "2", "--ensemble-size", "2", "--eval-episodes", "4"]


class Keyboard:
    """Who presses keys, and reads what the window says; time is counted, and not waited for.

    Where the window asks for the space bar, it is pressed. `at` has what else is done, once: by the
    number of a frame in which somebody drives, or by the status of the window.
    """

    def __init__(self, pygame):
        self.pygame = pygame
        self.held = defaultdict(bool)  # as pygame's own answer, by the code of a key
        self.at = {}
        self.said = []
        self.persons = []
        self.num_driven = 0
        self.num_ticks = 0

    def press(self, *names):
        for name in names:
            key = self.pygame.key.key_code(name)
            self.pygame.event.post(self.pygame.event.Event(self.pygame.KEYDOWN, key=key))

    def hold(self, name, is_down=True):
        self.held[self.pygame.key.key_code(name)] = is_down

    def quit(self):
        self.pygame.event.post(self.pygame.event.Event(self.pygame.QUIT))

    def tick(self, fps):
        self.num_ticks += 1

    def on_draw(self, person, colour, status, panel=()):
        assert len(self.said) < 2000, "the window waits for ever"
        person.fps = 1
        person.clock = self
        self.persons.append(person)
        self.said.append(" / ".join([status, *panel]))
        self.num_driven += colour != human.GREY
        for moment in (self.num_driven, status):
            self.at.pop(moment, lambda: None)()
        if status in ("ready", "round over"):
            self.press("space")


@pytest.fixture
def keyboard(monkeypatch):
    """With a window that nobody sees, and that says it is one."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = human.import_pygame()
    keyboard = Keyboard(pygame)
    draw = HumanExpert.draw

    def act_and_draw(person, colour, status, panel=(), *others, **options):
        keyboard.on_draw(person, colour, status, panel)
        draw(person, colour, status, panel, *others, **options)

    monkeypatch.setattr(pygame.display, "get_driver", lambda: "virtual")
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: keyboard.held)
    monkeypatch.setattr(HumanExpert, "draw", act_and_draw)
    yield keyboard
    for person in keyboard.persons:
        person.close()


def person_in(env_id, run, disable=True):
    """In the first episode of round 1; with or without a progress bar on the terminal."""
    args = hg_dagger.Args(env_id=env_id, num_rounds=2, num_updates=6000)
    person = HumanExpert(args, [gym.make(env_id, render_mode="rgb_array")], run)
    person.progress(disable=disable, file=io.StringIO())
    person.begin_round(1, 0)
    person.begin_episode(1)
    return person


def step(person, obs=0.0):
    """The person's action in one decision; None where the novice acts."""
    proposals = np.array([person.action_space.sample()])
    obs = np.full((1, person.obs_dim), obs)
    actions, (is_person,) = person(obs, proposals, np.ones(1, dtype=bool))
    assert actions.dtype == proposals.dtype
    assert person.recorder.by_person == is_person
    assert is_person or np.array_equal(actions, proposals)
    return actions[0].tolist() if is_person else None


def files_in(folder):
    return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]


def labels_in(run):
    """The labels of each correction of round 1, in the order of their numbers."""
    return [correction["actions"].tolist() for correction in files_in(run / "corrections_1")]


def test_keys_take_over_letting_go_hands_back_and_each_step_is_on_disk(keyboard, tmp_path):
    person = person_in("CartPole-v1", tmp_path)
    assert step(person) is None
    keyboard.press("right")  # a tap between two decisions counts
    assert step(person, 1.0) == 1
    assert labels_in(tmp_path) == [[1]]
    keyboard.hold("left")
    assert step(person, 2.0) == step(person, 3.0) == 0
    keyboard.hold("left", False)
    assert step(person, 4.0) is None
    assert labels_in(tmp_path) == [[1, 0, 0]]
    keyboard.press("left")
    person.begin_episode(1)  # what was typed before an episode steers nothing
    keyboard.press("x")  # and neither does a key without a meaning
    assert step(person, 5.0) is None
    keyboard.press("right")
    assert step(person, 6.0) == 1
    person.begin_episode(1)  # a correction ends with its episode
    keyboard.press("right")
    assert step(person, 7.0) == 1
    states, labels, take_overs = map(np.concatenate, person.end_round())
    assert states[:, 0].tolist() == [1, 2, 3, 6, 7]
    assert (labels.tolist(), labels.dtype) == ([1, 0, 0, 1, 1], np.int64)
    assert take_overs[:, 0].tolist() == [1, 6, 7]
    person.begin_round(2, 0)
    assert [np.concatenate(arrays).size for arrays in person.end_round()] == [0, 0, 0]


@pytest.mark.parametrize(
    "env_id, keys, action",
    [
        ("LaneChange-v0", ["up"], [0.9, 0.0]),
        ("LaneChange-v0", ["down", "left"], [-0.9, -1.0]),
        ("Slalom-v0", ["space"], [0.0, 0.0]),
        ("LaneChange-v0", ["right"], [0.6, 1.0]),  # the speed changes, the lane does not
        ("LunarLanderContinuous-v3", ["up", "left"], [1.0, -1.0]),
        ("MountainCarContinuous-v0", ["right"], [1.0]),
        ("Pendulum-v1", ["left"], [2.0]),
        ("Pendulum-v1", ["left", "right"], [0.0]),
        ("LunarLander-v3", ["left", "up"], 2),  # the first in the table
        ("Acrobot-v1", ["right"], 2),
        ("MountainCar-v0", ["space"], 1),
        ("Lamps-v0", ["2"], 5),  # digits, of a space that starts at 3
    ],
)
def test_keys_of_each_environment(env_id, keys, action, keyboard, tmp_path):
    person = person_in(env_id, tmp_path)
    keyboard.press(*keys)
    person.show()
    assert step(person, 0.6) == pytest.approx(action)
    np.testing.assert_allclose(labels_in(tmp_path), [[action]], rtol=1e-6)
    for chosen, meaning in person.keys.values():
        assert np.array(chosen, person.action_space.dtype) in person.action_space
        assert meaning


@pytest.mark.parametrize(
    "env_id, driver, message",
    [("CartPole-v1", "dummy", "needs a screen"), ("Walk-v0", "virtual", "--gate human steers")],
)
def test_no_screen_and_no_keys_are_refused(env_id, driver, message, keyboard, monkeypatch):
    monkeypatch.setattr(keyboard.pygame.display, "get_driver", lambda: driver)
    with pytest.raises(gym.error.Error, match=message):
        person_in(env_id, Path())


def test_backspace_discards_the_last_correction_and_a_held_key_does_not_go_on(keyboard, tmp_path):
    person = person_in("CartPole-v1", tmp_path)
    expected = [[0]] * 10 + [[1]]
    for (label,) in expected:
        keyboard.press("right" if label else "left")
        assert (step(person), step(person)) == (label, None)
    keyboard.hold("right")
    assert step(person) == step(person) == 1
    keyboard.press("backspace")  # the one under way
    assert (step(person), step(person)) == (None, None)  # the key is still held
    assert person.message == "Discarded: the last correction (labels: 2)."
    assert labels_in(tmp_path) == expected
    for is_down in (False, True, False):  # let go, and pressed again
        keyboard.hold("right", is_down)
        assert step(person) == (1 if is_down else None)
    assert len(labels_in(tmp_path)) == 12
    again = person_in("CartPole-v1", tmp_path)  # finds those from before the run was stopped
    for num_left in (11, 10):
        keyboard.press("left", "backspace")  # a tap from before it counts for nothing
        assert step(again) is None
        assert labels_in(tmp_path) == expected[:num_left]
    keyboard.at = {"round over": lambda: keyboard.press("backspace")}
    assert sum(map(len, again.end_round()[1])) == 9  # also after the last episode
    keyboard.press("backspace", "p", "escape")  # and not in the training
    again.show_training(0.5)
    assert not (keyboard.pygame.event.get() or again.paused or again.round_over)
    assert len(labels_in(tmp_path)) == 9


def test_p_pauses_the_world_and_keys_pressed_meanwhile_steer_nothing(keyboard, tmp_path):
    person = person_in("LaneChange-v0", tmp_path)
    seen = []
    on_draw = keyboard.on_draw

    def look_and_type(person, colour, status, panel):
        seen.append((status, person.env.unwrapped.x))
        if status == "paused":
            assert person.held_keys() == []
            keyboard.press("p" if len(seen) == 8 else "up")
        on_draw(person, colour, status, panel)

    keyboard.on_draw = look_and_type
    keyboard.at = {keyboard.num_driven + 3: lambda: keyboard.press("up", "p")}
    person.env.step(np.zeros(2, np.float32))
    paused = [x for status, x in seen if status == "paused"]
    assert (len(paused), len(set(paused))) == (5, 1)
    driven = {x for status, x in seen if status != "paused"}
    assert len(driven) == person.env.unwrapped.num_substeps
    assert step(person) is None


@pytest.mark.parametrize("disable", [True, False])  # where there is no terminal, and where there is
def test_training_is_not_held_to_the_rate_of_frames(disable, keyboard, tmp_path, monkeypatch):
    """A thousand updates a second, of which ten are drawn, and of an environment with 15 frames."""
    person = person_in("Acrobot-v1", tmp_path, disable)
    assert "Before this round" not in "".join(keyboard.said)  # nothing is known of it
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(human, "time", SimpleNamespace(monotonic=lambda: clock.now))
    num_ticks = keyboard.num_ticks
    keyboard.said.clear()
    for update in range(2000):
        if update == 1000:
            person.bar.set_postfix(round=0)
        clock.now = update / 1000
        person.bar.update()
    said = "training / The novice learns / {} / Next: round 2 of 2"
    assert keyboard.said == [said.format("")] * 10 + [said.format("round=0")] * 10
    assert keyboard.num_ticks == num_ticks
    person.bar.close()
    assert person.closed


def test_what_is_recorded_stays_if_arrays_change_and_files_are_deleted(tmp_path):
    recorder = EpisodeRecorder(gym.make("Walk-v0"))
    recorder.directory = tmp_path
    for seed in (3, 0):
        recorder.reset(seed=seed)
        for t in range(1 + seed):
            recorder.by_person = t == 2
            recorder.step(np.array([t + 1.0], np.float32))
    recorder.write()
    first, second = files_in(tmp_path)
    assert first["obs"].tolist() == [[3, 0, 0], [3, 1, 1], [3, 2, 2], [3, 3, 3], [3, 4, 4]]
    assert first["actions"].tolist() == [[1], [2], [3], [4]]
    assert first["by_person"].tolist() == [False, False, True, False]
    assert second["obs"].tolist() == [[0, 0, 0], [0, 1, 1]]

    next(tmp_path.glob("*00000.safetensors")).unlink()
    recorder.reset(seed=1)
    recorder.step(np.array([9.0], np.float32))
    recorder.write()
    kept, new = files_in(tmp_path)
    assert kept["actions"].tolist() == [[1]]
    assert new["actions"].tolist() == [[9]]


# --- Whole runs: two rounds of two episodes of ten steps, a frame a step ---


def test_escape_ends_the_round_and_the_run_goes_on(keyboard, capsys):
    keyboard.at = {3: lambda: keyboard.press("0"), 5: lambda: keyboard.press("escape")}
    main("hg_dagger", *RUN)
    rounds = results_in(only_run())["rounds"]
    assert [line["expert_labels"] for line in rounds] == [20, 21, 21]
    rewards = [[file["rewards"] for file in files_in(only_run() / f"episodes_{i}")] for i in (1, 2)]
    assert [list(map(len, episodes)) for episodes in rewards] == [[5], [10, 10]]
    errors = capsys.readouterr().err.splitlines()
    assert errors[3:] == ["round 2 of 2 is over: the novice learns, then the final evaluation"]
    said = "\n".join(keyboard.said)
    for i, line in enumerate(rounds[:2]):
        score = f"labels={line['expert_labels']}, last_return={line['return_mean']:.2f}, round={i}"
        assert f"ready / Round {i + 1} of 2 /  / Before this round: {score} / You" in said
    assert "broken off / Of this round: corrections: 1, labels: 1." in said
    assert f"Episode 2 of 2 / Episode 1: return {rewards[1][0].sum():.2f} / \n" in said
    assert "Episode 0" not in said


CLOSED = {  # when the window is closed: the labels after each round that is learnt
    (0, "training"): [20],
    (0, "ready"): [20],  # nothing is labelled, and the round remains to be played
    (15, "YOU are in control"): [20, 23],
    (20, "round over"): [20, 24],
    (20, "training"): [20, 24],
    (38, "the novice is in control"): [20, 24],
}


@pytest.mark.parametrize("frame, status", CLOSED)
def test_closing_the_window_ends_the_run_with_what_there_is(frame, status, keyboard, capsys):
    keyboard.at = {k: lambda: keyboard.press("1") for k in (3, 4)}
    keyboard.at |= {14: lambda: keyboard.hold("1"), 16: lambda: keyboard.hold("1", False)}
    keyboard.at[frame] = lambda: keyboard.at.update({status: keyboard.quit})
    main("hg_dagger", *RUN)
    results = results_in(only_run())
    assert [line["expert_labels"] for line in results["rounds"]] == CLOSED[frame, status]
    assert len(results["eval_returns"]) == 4
    assert "--resume" in capsys.readouterr().err
    acted = [step for file in files_in(only_run() / "episodes_1") for step in file["by_person"]]
    by_person = [3, 4, 14] if frame == 15 else [3, 4, 14, 15]  # the last step is the novice's
    assert [1 + k for k in np.flatnonzero(acted)] == (by_person if frame else [])


def test_the_corrections_of_a_killed_round_are_kept_with_their_take_overs(keyboard):
    def kill():
        raise KeyboardInterrupt

    keyboard.at = {k: lambda: keyboard.press("0") for k in (2, 3, 5)} | {7: kill}
    with pytest.raises(KeyboardInterrupt):
        main("hg_dagger", *RUN)
    run = only_run()
    assert labels_in(run) == [[3, 3], [3]]
    keyboard.num_driven = 0
    keyboard.said.clear()
    keyboard.at = {4: lambda: keyboard.press("2"), 12: lambda: keyboard.press("1")}
    main("hg_dagger", *RUN, "--resume", str(run))
    assert "from before the run was stopped are kept." in keyboard.said[1]
    assert labels_in(run) == [[3, 3], [3], [5], [4]]
    results = results_in(run)
    assert [line["expert_labels"] for line in results["rounds"]] == [20, 25, 25]
    assert len(results["doubts"]) == 4
    state = torch.load(run / "state.pt", weights_only=True)
    corrections = files_in(run / "corrections_1")
    episodes = files_in(run / "episodes_1")  # of the resumed run
    for name in ("obs", "actions"):
        expected = [correction[name] for correction in corrections]
        np.testing.assert_array_equal(state[name][20:], np.concatenate(expected))
        acted = [episode[name][:10][episode["by_person"]] for episode in episodes]
        np.testing.assert_array_equal(acted, expected[2:])
