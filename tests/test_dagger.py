"""DAgger and HG-DAgger: training, how a stopped run goes on, and the person at the keyboard."""

import importlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import experts
import hg_dagger
from experts import human
from experts.human import HumanExpert
from tests import kills
from tests.test_cli import (
    DAGGERS,
    KEYS,
    ROOT,
    TINY,
    Evil,
    as_if_alone,  # noqa: F401  # applies to all tests here
    evaluate,
    main,
    metadata_of,
    refusal,
    results_in,
    short_refusal,
    start,
    wait_for,
)


class Lamps(gym.Env):
    """Ten steps, each with a point for the category 3 or 4 or 5, as the observation says."""

    observation_space = gym.spaces.Box(-9, 9, (2,))
    action_space = gym.spaces.Discrete(3, start=3)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action):
        reward = float(action == lamp(self.obs[None])[0])
        self.t += 1
        return self.look(), reward, self.t == 10, False, {}

    def look(self):
        self.obs = self.np_random.normal(size=2).astype(np.float32)
        return self.obs


def lamp(obs):
    """The expert for it."""
    return 3 + np.digitize(obs[:, 0], [-0.4, 0.4])


gym.register("Lamps-v0", Lamps, max_episode_steps=50)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


# --- The novice of HG-DAgger; who acts and what becomes a label is in tests/test_labels.py ---


@pytest.mark.parametrize("env_id", ["Hopper-v4", "CartPole-v1"])
def test_doubt_is_the_norm_of_the_ensembles_variances(env_id):
    env = gym.make(env_id)
    policy = hg_dagger.Policy(env.observation_space, env.action_space, 32, ensemble_size=4)
    obs = np.random.default_rng(0).normal(size=(5, env.observation_space.shape[0]))
    outputs = []
    for net in policy.nets:
        output = net(torch.tensor(obs, dtype=torch.float32)).detach().double()
        outputs.append(output.softmax(-1) if policy.discrete else output)
    outputs = torch.stack(outputs).numpy()
    expected = np.sqrt((outputs.var(axis=0) ** 2).sum(-1))
    actions, doubt = policy.act_and_doubt(obs)
    np.testing.assert_allclose(doubt, expected, rtol=1e-3)
    mean = outputs.mean(axis=0)
    if policy.discrete:
        np.testing.assert_array_equal(actions, mean.argmax(-1))
    else:
        np.testing.assert_allclose(actions, mean.clip(-1, 1), atol=1e-6)


def test_distance_is_measured_in_standard_deviations_and_between_categories():
    spaces = gym.spaces.Box(-9, 9, (3,)), gym.spaces.Box(-9, 9, (2,))
    policy = hg_dagger.Policy(*spaces, 4)
    policy.action_std.copy_(torch.tensor([2.0, 0.5]))
    distance = policy.distance(np.array([[2.0, 1.0], [0.0, 0.0]]), np.zeros((2, 2)))
    np.testing.assert_allclose(distance, [np.sqrt((1 + 4) / 2), 0.0])
    policy = hg_dagger.Policy(spaces[0], gym.spaces.Discrete(5), 4)
    assert policy.distance(np.array([1, 4]), np.array([1, 2])).tolist() == [0.0, 1.0]


# --- Training ---

OWN_FLAGS = {"dagger": [], "hg_dagger": ["--ensemble-size", "2", "--gate-threshold", "0.5"]}


@pytest.mark.parametrize("script", DAGGERS)
@pytest.mark.parametrize(
    "action_space, label",
    [
        (gym.spaces.Box(-1, 1, (2,)), lambda obs: torch.tanh(obs[:, :2])),
        (gym.spaces.Discrete(2), lambda obs: (obs[:, 0] > 0).long()),
        (gym.spaces.Discrete(3, start=-7), lambda obs: -7 + torch.argmax(obs[:, :3], -1)),
    ],
)
def test_labels_are_learnt(script, action_space, label):
    module = importlib.import_module(script)
    size = {"ensemble_size": 2} if script == "hg_dagger" else {}
    policy = module.Policy(gym.spaces.Box(-9, 9, (4,)), action_space, 64, **size)
    obs = torch.randn(2000, 4)
    actions = label(obs)
    policy.set_statistics(obs, actions)
    before = policy.loss(obs, actions).item()
    args = module.Args(batch_size=256, learning_rate=3e-3)
    loss = module.train(args, policy, obs, actions, 400, SimpleNamespace(update=lambda: None))
    assert policy.loss(obs, actions).item() < 0.15 * before
    assert loss < 0.25 * before
    chosen = policy.act(obs.numpy())
    assert chosen.shape == actions.shape
    if policy.discrete:
        assert all(action in action_space for action in chosen)
        assert (chosen == actions.numpy()).mean() > 0.95
    else:
        assert np.abs(chosen - actions.numpy()).mean() < 0.1


@pytest.mark.parametrize("script", DAGGERS)
def test_categories_that_do_not_begin_at_zero(script):
    flags = ["--env-id", "Lamps-v0", "--expert", f"{__name__}:lamp", "--num-demos", "4"]
    flags += ["--num-rounds", "2", "--num-updates", "600", "--hidden-dim", "32"]
    flags += ["--batch-size", "64", "--learning-rate", "3e-3", "--eval-episodes", "10"]
    main(script, *flags, *OWN_FLAGS[script])
    directory, results = results_in("runs")
    assert results["expert_return"] == 10.0
    assert results["return_mean"] > 8.5  # chance is 3.3
    assert results["rounds"][0]["expert_labels"] == 40
    actions = load_file(directory / "state.safetensors")["actions"]
    assert actions.dtype == torch.int64
    assert set(actions.tolist()) == {3, 4, 5}


@pytest.mark.parametrize("script", DAGGERS)
def test_end_to_end_from_a_short_demonstration(script, capfd):
    # The first clone falls with this seed; with seed 0 the demonstration alone is enough.
    flags = ["--env-id", "CartPole-v1", "--seed", "1", "--num-demos", "1", "--label-every", "5"]
    flags += ["--num-rounds", "2", "--num-updates", "900", "--hidden-dim", "64"]
    flags += ["--batch-size", "64", "--learning-rate", "3e-3", "--eval-episodes", "5"]
    main(script, *flags, *OWN_FLAGS[script])
    directory, results = results_in("runs")
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    assert f"{results['expert_labels']:,} labels" in captured.out

    own = {"rounds", "doubts", "tau"} if script == "hg_dagger" else {"rounds"}
    assert results.keys() == KEYS | own
    rounds = results["rounds"]
    assert len(rounds) == 3
    assert rounds[0]["expert_labels"] == 100  # of 500 steps
    assert rounds[0]["return_mean"] < 250
    assert results["return_mean"] > 480
    assert 100 < results["expert_labels"] == rounds[-1]["expert_labels"] <= 100 + 2 * 4 * 100
    if script == "hg_dagger":
        assert rounds[-1]["expert_share"] < 0.5 * rounds[1]["expert_share"]
        assert results["tau"] > 0
        assert len(results["doubts"]) == sum(line["take_overs"] for line in rounds)

    (events,) = directory.glob("events.out.tfevents.*")
    for name in rounds[0]:
        assert f"round/{name}".encode() in events.read_bytes()
    files = {path.name for path in directory.iterdir()} - {events.name}
    assert files == {"policy.safetensors", "state.safetensors", "results.json"}
    _, again = evaluate("again", directory / "policy.safetensors")
    assert again["eval_returns"] == results["eval_returns"]
    assert again["rounds"] == results["rounds"]


# --- Stopped runs ---


def finished_rounds(directory):
    """So many rounds are in the saved state; -1 if there is none."""
    try:
        with safe_open(directory / "state.safetensors", framework="pt") as file:
            return len(json.loads(file.metadata()["metadata"])["rounds"])
    except (OSError, SafetensorError):
        return -1


def undisturbed(script, flags, run_dir):
    """The numbers of a run that nobody stops."""
    main(script, *flags, "--run-dir", str(run_dir))
    run, _ = results_in(run_dir)
    return kills.numbers_in(run)


def resume(script, run):
    main(script, "--resume", str(run))
    return kills.numbers_in(run)


STOPS = [pytest.param(moment, marks=pytest.mark.slow) for moment in (0, 1, 3)]


@pytest.mark.parametrize("script", ["dagger", pytest.param("hg_dagger", marks=pytest.mark.slow)])
@pytest.mark.parametrize("moment", [2, *STOPS])
def test_a_killed_run_goes_on_to_the_same_numbers(script, moment, tmp_path):
    flags = [*kills.FLAGS, *OWN_FLAGS[script], "--num-updates", "800", "--eval-episodes", "50"]
    with start(script, *flags, cwd=tmp_path) as process:
        run = wait_for("runs/*/state.safetensors", tmp_path).parent
        while finished_rounds(run) < moment:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert moment <= finished_rounds(run) < 4
    assert not (run / "results.json").exists()
    expected = undisturbed(script, flags, "undisturbed")
    assert resume(script, run) == expected
    # What it has saved is complete: the policy needs no flags.
    _, again = evaluate("again", run / "policy.safetensors")
    assert again["eval_returns"] == expected["eval_returns"]


def interrupt_call(number, function):
    """The function, with Ctrl-C before its call of this number."""
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("script", DAGGERS)
def test_an_interrupted_run_goes_on_to_the_same_numbers(script, capfd):
    module = importlib.import_module(script)
    flags = ["--env-id", "LaneChange-v0", *TINY, "--num-rounds", "3"]
    expected = undisturbed(script, flags, "undisturbed")
    moments = [
        ("train", 1),  # before anything is learnt
        ("drive", 2),
        ("evaluate", 3),  # after a round is learnt, and before it is saved
        ("save_file", 6),  # between the policy and the state of a round
        ("evaluate", 5),  # in the final evaluation
    ]
    for name, number in moments:
        run_dir = Path(f"{name}_{number}")
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, interrupt_call(number, getattr(module, name)))
            with pytest.raises(SystemExit) as exit_:
                main(script, *flags, "--run-dir", str(run_dir))
        assert exit_.value.code == 130
        (run,) = run_dir.iterdir()
        assert capfd.readouterr() == ("", f"interrupted; continue with --resume {run}\n")
        assert not (run / "results.json").exists()
        assert resume(script, run) == expected


def test_a_resumed_run_may_be_given_more_rounds():
    flags = ["--env-id", "LaneChange-v0", *TINY, "--num-updates", "12"]
    main("dagger", *flags, "--num-rounds", "1")
    run, results = results_in("runs")
    main("dagger", "--resume", str(run), "--num-rounds", "2")
    _, longer = results_in("runs")
    assert longer["rounds"][:2] == results["rounds"]
    assert len(longer["rounds"]) == 3
    assert longer["args"]["num_rounds"] == 2
    main("dagger", "--resume", str(run), "--eval-episodes", "2")  # the three rounds are kept
    _, again = results_in("runs")
    assert again["rounds"] == longer["rounds"]
    assert again["args"]["num_rounds"] == 2


@pytest.mark.slow
def test_kills_at_random_moments():
    command = [sys.executable, "-m", "tests.kills", "--num-kills", "4", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "dagger: 4 kills, 0 different\nhg_dagger: 4 kills, 0 different\n"
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", DAGGERS)
def test_resuming_never_runs_code(script, capsys):
    Path("run").mkdir()
    Path("run/state.safetensors").write_bytes(pickle.dumps(Evil()))
    assert "--resume run" in short_refusal(script, ["--resume", "run"], capsys)


@pytest.mark.parametrize("script", DAGGERS)
def test_what_cannot_be_resumed_is_left_alone(script, capsys):
    other = DAGGERS[1 - DAGGERS.index(script)]
    main(script, "--env-id", "LaneChange-v0", *TINY, "--num-rounds", "1")
    run, _ = results_in("runs")
    shutil.copytree(run, "broken")
    state = Path("broken/state.safetensors")
    state.write_bytes(state.read_bytes()[:-5])
    assert "--resume broken" in short_refusal(script, ["--resume", "broken"], capsys)
    assert f"--resume {run}" in short_refusal(other, ["--resume", str(run)], capsys)
    for flags in (["--hidden-dim", "8"], ["--env-id", "CartPole-v1"]):
        flags = ["--resume", str(run), *flags]
        assert f"--resume {run} does not fit" in short_refusal(script, flags, capsys)
    flags = ["--resume", str(run), "--checkpoint", str(run / "policy.safetensors")]
    assert "give either checkpoint or resume" in refusal(script, flags, capsys)


@pytest.mark.parametrize("script", DAGGERS)
def test_a_state_that_somebody_has_changed_is_refused(script, capsys):
    main(script, "--env-id", "LaneChange-v0", *TINY, "--num-rounds", "1")
    run, _ = results_in("runs")
    path = run / "state.safetensors"
    whole = load_file(path)
    header = {"metadata": json.dumps(metadata_of(path))}
    nan = torch.full_like(whole["obs"], float("nan"))
    large = torch.full_like(whole["actions"], 7.0)
    for change, expected in [
        ({"obs": nan}, "has observations that are not"),
        ({"actions": large}, "has actions that are not in"),
        ({"obs": whole["obs"][:, :2].contiguous()}, "has observations that are not"),
    ]:
        save_file(whole | change, path, header)
        errors = short_refusal(script, ["--resume", str(run)], capsys)
        assert f"--resume {run} {expected}" in errors
    del whole["obs"]
    save_file(whole, path, header)
    assert f"--resume {run} has no labels" in short_refusal(script, ["--resume", str(run)], capsys)


class Tired:
    """An expert that answers the demonstrations rightly, and after so many calls wrongly."""

    def __init__(self):
        self.calls = 0
        self.answer = None

    def __call__(self, obs):
        self.calls += 1
        return lamp(obs) if self.calls <= 10 else self.answer(obs)


tired = Tired()


@pytest.mark.parametrize("script", DAGGERS)
@pytest.mark.parametrize(
    "answer, message",
    [
        (
            lambda obs: np.full(len(obs), 6),
            "round 1 has actions that are not in Discrete(3, start=3)",
        ),
        (lambda obs: np.full((len(obs), 1), 3), "labels of shape (4,) are needed, not (4, 1)"),
    ],
)
def test_wrong_labels_of_a_round_are_refused_and_the_run_can_go_on(
    script, answer, message, monkeypatch, capsys
):
    monkeypatch.setattr(tired, "calls", 0)
    monkeypatch.setattr(tired, "answer", answer)
    monkeypatch.setattr(Lamps, "step", lambda env, action: (env.look(), 0.0, env.tick(), False, {}))
    monkeypatch.setattr(Lamps, "tick", tick, raising=False)
    flags = ["--env-id", "Lamps-v0", "--expert", f"{__name__}:tired", *TINY]
    with pytest.raises(SystemExit) as exit_:
        main(script, *flags, "--num-rounds", "1")
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    (run,) = Path("runs").iterdir()
    assert finished_rounds(run) == 1
    monkeypatch.setattr(tired, "answer", lamp)
    main(script, "--resume", str(run))
    _, results = results_in("runs")
    assert len(results["rounds"]) == 2


def tick(env):
    env.t += 1
    return env.t == 10


# --- Wrong input ---

USAGE = {
    "more rounds than updates": (["--num-rounds", "50"], "num_rounds must be"),
    "negative rounds": (["--num-rounds", "-1"], "num_rounds must be"),
    "no episodes": (["--episodes-per-round", "0"], "episodes_per_round must be at least 1"),
    "no labels": (["--label-every", "0"], "label_every must be at least 1"),
}
USAGE_OF_DAGGER = {"no schedule": (["--beta-schedule", "cubic"], "cubic")}
USAGE_OF_HG = {
    "no ensemble": (["--ensemble-size", "0"], "ensemble_size must be at least 1"),
    "no running mean": (["--gate-steps", "0"], "gate_steps must be at least 1"),
    "no threshold": (["--gate-threshold", "0"], "gate_threshold must be above 0"),
    "no gate": (["--gate", "robot"], "robot"),
}
WRONG = {
    "resume of nothing": (["--resume", "nowhere"], "--resume nowhere"),
    "demonstrations from nowhere": (["--demo-env-id", "Hoper-v4"], "Hoper-v4 cannot be made"),
    "demonstrations of another kind": (["--demo-env-id", "Hopper-v4"], "--demo-env-id Hopper-v4"),
    "no expert for the rounds": (
        ["--env-id", "Pusher-v5", "--dataset", "road/expert-v0"],
        "--expert module:callable",
    ),
    "no expert for the demonstrations": (
        ["--demo-env-id", "Road-v0"],
        "--expert module:callable",
    ),
}
WRONG_OF_HG = {
    "no screen": (["--gate", "human"], "--gate human needs a screen"),
    "nothing to steer": (
        ["--gate", "human", "--env-id", "InvertedPendulum-v4"],
        "--gate human steers",
    ),
}
USAGES = [("dagger", *case) for case in (USAGE | USAGE_OF_DAGGER).values()]
USAGES += [("hg_dagger", *case) for case in (USAGE | USAGE_OF_HG).values()]
WRONGS = [("dagger", *case) for case in WRONG.values()]
WRONGS += [("hg_dagger", *case) for case in (WRONG | WRONG_OF_HG).values()]
gym.register("Road-v0", "experts.driving:DrivingEnv", max_episode_steps=50)


@pytest.mark.parametrize("script, flags, expected", USAGES)
def test_wrong_usage_is_answered_in_a_box_and_leaves_nothing(script, flags, expected, capsys):
    errors = refusal(script, ["--env-id", "LaneChange-v0", *TINY, *flags], capsys)
    assert not errors.startswith("error: ")
    assert expected in errors


@pytest.mark.parametrize("script, flags, expected", WRONGS)
def test_wrong_input_is_answered_in_a_line_and_leaves_nothing(
    script, flags, expected, monkeypatch, capsys
):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    flags = ["--env-id", "LaneChange-v0", *TINY, *flags]
    assert expected in short_refusal(script, flags, capsys)


# --- The person at the keyboard ---


@pytest.fixture
def pygame(monkeypatch):
    """With a window that nobody sees, and that says it is one."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    module = experts.driving.import_pygame()
    monkeypatch.setattr(module.display, "get_driver", lambda: "virtual")
    yield module
    module.display.quit()


def press(pygame, name):
    event = pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(name))
    pygame.event.post(event)


def step_with(person, *keys):
    """One step of CartPole-v1, in which these keys are tapped."""
    for key in keys:
        press(person.pygame, key)
    person(np.zeros((1, 4), np.float32), np.array([0]))


TWO_ROUNDS = hg_dagger.Args(num_rounds=2, episodes_per_round=4)
LAST = {"expert_return": 1.0, "rounds": [{"expert_labels": 62, "return_mean": 0.9}]}


def person_in(env_id, run):
    envs = gym.make_vec(env_id, 1, "sync", render_mode="rgb_array")
    person = HumanExpert(envs, env_id)
    person.fps = 0  # without waiting
    press(person.pygame, "space")
    person.begin_round(run, 1, TWO_ROUNDS, LAST)
    person.begin_episode()
    return person


def test_keys_take_over_letting_go_hands_back_and_a_file_is_left(pygame, tmp_path, monkeypatch):
    held = defaultdict(bool)
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: held)
    person = person_in("CartPole-v1", tmp_path)
    obs = np.arange(4.0)[None]
    proposals = np.array([0])
    actions, gate = person(obs, proposals)
    assert actions.tolist() == [0]
    assert gate.tolist() == [False]

    for key, action in (("right", 1), ("left", 0)):  # a tap between two decisions counts
        press(pygame, key)
        actions, gate = person(obs, proposals)
        assert actions.tolist() == [action]
        assert gate.tolist() == [True]
    held[pygame.K_RIGHT] = True
    actions, gate = person(obs + 1, proposals)
    assert actions.tolist() == [1]
    assert gate.tolist() == [True]
    held.clear()
    assert person(obs, proposals)[1].tolist() == [False]

    press(pygame, "left")
    person.begin_episode()  # what was typed before an episode steers nothing
    assert person(obs, proposals)[1].tolist() == [False]
    press(pygame, "x")  # and neither does a key without a meaning
    assert person(obs, proposals)[1].tolist() == [False]
    (path,) = (tmp_path / "corrections_1").iterdir()
    assert path.suffix == ".safetensors"

    # Another process finds them.
    obs, actions = person_in("CartPole-v1", tmp_path).corrections()
    assert obs.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert actions.tolist() == [1, 0, 1]
    assert actions.dtype == np.int64


def test_a_correction_under_way_is_on_disk_and_a_new_episode_begins_another(pygame, tmp_path):
    person = person_in("CartPole-v1", tmp_path)
    obs = np.zeros((1, 4), np.float32)
    for k in range(2):
        press(pygame, "right")
        person(obs + k, np.array([0]))
        assert len(person_in("CartPole-v1", tmp_path).corrections()[0]) == k + 1
    person.begin_episode()
    press(pygame, "left")
    person(obs, np.array([0]))
    assert len(list(tmp_path.glob("corrections_1/*.safetensors"))) == 2
    assert person.corrections()[1].tolist() == [1, 1, 0]
    press(pygame, "space")
    person.begin_round(tmp_path, 2, TWO_ROUNDS, LAST)
    obs, actions = person.corrections()
    assert obs.shape == (0, 4)
    assert actions.shape == (0,)


@pytest.mark.parametrize(
    "keys, action",
    [
        (["up"], [0.9, 0.0]),
        (["down", "left"], [-0.9, -1.0]),
        (["space"], [0.0, 0.0]),
        (["right"], [0.6, 1.0]),  # the speed changes, the lane does not
        (["left"], [0.6, -1.0]),
    ],
)
def test_keys_of_a_driver(keys, action, pygame, tmp_path):
    person = person_in("LaneChange-v0", tmp_path)
    for key in keys:
        press(pygame, key)
    person.show()
    actions, gate = person(np.array([[0.1, 0.6, 0, 0]]), np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(actions, [action], atol=1e-6)
    assert gate.tolist() == [True]


HUMAN = ["--env-id", "LaneChange-v0", "--gate", "human", *TINY, "--num-updates", "20"]
HUMAN += ["--episodes-per-round", "2", "--ensemble-size", "2"]


@pytest.fixture
def at_frame(pygame, monkeypatch):
    """A function that says what the person does when, in frames of the rounds: a dict.

    Where the window waits for the space bar, it is pressed. The list that comes back has what the
    window said, frame by frame.
    """
    show = HumanExpert.show
    draw = HumanExpert.draw
    frames = []
    said = []

    def plan(actions):
        frames.clear()
        said.clear()

        def show_and_act(person):
            frames.append(person)
            if len(frames) in actions:
                actions[len(frames)]()
            show(person)

        def draw_and_start(person, colour, status, panel=(), fraction=None):
            person.fps = 0
            said.append(" / ".join([status, *panel]))
            if status in ("ready", "round over"):
                press(pygame, "space")
            draw(person, colour, status, panel, fraction)

        monkeypatch.setattr(HumanExpert, "show", show_and_act)
        monkeypatch.setattr(HumanExpert, "draw", draw_and_start)
        always = property(lambda person: 0.0, lambda person, value: None)
        monkeypatch.setattr(HumanExpert, "next_frame", always, raising=False)
        return said

    return plan


def test_closing_the_window_ends_the_round_and_trains_on_what_there_is(pygame, at_frame, capsys):
    steering = {frame: lambda: press(pygame, "up") for frame in range(25, 50)}
    closing = {90: lambda: pygame.event.post(pygame.event.Event(pygame.QUIT))}
    at_frame(steering | closing)
    main("hg_dagger", *HUMAN, "--num-rounds", "3")
    run, results = results_in("runs")
    assert str(run) in capsys.readouterr().out
    assert len(results["rounds"]) == 2
    first, last = results["rounds"]
    assert last["take_overs"] == 1
    assert 0 < last["expert_share"] < 1
    assert 0 < results["expert_labels"] - first["expert_labels"] < 5
    (path,) = run.glob("corrections_1/*.safetensors")
    correction = load_file(path)
    assert (correction["actions"] == torch.tensor([0.9, 0.0])).all()
    state = load_file(run / "state.safetensors")
    new = len(correction["obs"])
    assert torch.equal(state["obs"][-new:], correction["obs"])
    assert torch.equal(state["actions"][-new:], correction["actions"])


def test_closing_the_window_between_two_rounds_ends_the_run(pygame, at_frame, monkeypatch):
    train = hg_dagger.train
    calls = []

    def train_and_close(*args):
        calls.append(args)
        if len(calls) == 2:  # after round 1
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        return train(*args)

    monkeypatch.setattr(hg_dagger, "train", train_and_close)
    at_frame({})
    main("hg_dagger", *HUMAN, "--num-rounds", "5")
    _, results = results_in("runs")
    assert 2 <= len(results["rounds"]) <= 3
    assert len({line["expert_labels"] for line in results["rounds"]}) == 1


def test_corrections_of_a_stopped_round_are_there_after_resuming(pygame, at_frame, capsys):
    steering = {frame: lambda: press(pygame, "up") for frame in range(25, 50)}
    stopping = {60: lambda: signal.raise_signal(signal.SIGTERM)}
    at_frame(steering | stopping)
    with pytest.raises(SystemExit) as exit_:
        main("hg_dagger", *HUMAN, "--num-rounds", "2")
    assert exit_.value.code == 130
    (run,) = Path("runs").iterdir()
    assert f"--resume {run}" in capsys.readouterr().err
    (path,) = run.glob("corrections_1/*.safetensors")
    before = load_file(path)

    at_frame({frame: lambda: press(pygame, "down") for frame in range(25, 50)})
    main("hg_dagger", "--resume", str(run))
    _, results = results_in("runs")
    assert len(results["rounds"]) == 3
    state = load_file(run / "state.safetensors")
    begin = results["rounds"][0]["expert_labels"]
    end = begin + len(before["obs"])
    assert torch.equal(state["obs"][begin:end], before["obs"])
    assert torch.equal(state["actions"][begin:end], before["actions"])
    later = state["actions"][end : results["rounds"][1]["expert_labels"]]
    assert len(later) > 0
    assert (later == torch.tensor([-0.9, 0.0])).all()


def test_escape_ends_the_round_and_the_run_goes_on(pygame, at_frame, capsys):
    said = at_frame({30: lambda: press(pygame, "escape")})
    main("hg_dagger", *HUMAN, "--num-rounds", "2")
    run, results = results_in("runs")
    assert len(results["rounds"]) == 3
    assert len(list((run / "episodes_1").iterdir())) == 1  # of two episodes
    assert len(list((run / "episodes_2").iterdir())) == 2
    assert capsys.readouterr().err.splitlines() == [
        "round 1 of 2: press the space bar in the window to start",
        "round 1 of 2 is over: the novice learns, then round 2 of 2",
        "round 2 of 2: press the space bar in the window to start",
        "round 2 of 2 is over: the novice learns, then the final evaluation",
    ]
    labels = results["rounds"][0]["expert_labels"]
    score = f"Before this round: {labels} labels, return {results['rounds'][0]['return_mean']:.2f} "
    score += f"(demonstrations {results['expert_return']:.2f})"
    assert said[0] == f"demonstrations / The expert demonstrates / {human.GOALS['LaneChange']}"
    assert f"training / The novice learns from {labels} labels / " in said[1]
    training = f"training / The novice learns from {labels} labels / {score}"
    assert f"{training} / Next: round 2 of 2" in said
    goal = human.GOALS["LaneChange"]
    assert any(text.startswith(f"ready / Round 1 of 2 / {goal} / {score}") for text in said)
    assert any(text.startswith("evaluation") for text in said)
    assert any(f"{score} / Next: the final evaluation" in text for text in said)
    assert not any(
        "pisode 2" in text for text in said[: said.index(f"{training} / Next: round 2 of 2")]
    )
    (over,) = {text for text in said if text.startswith("round over / Round 1 of 2 is over")}
    assert "Of this round: corrections: 0, labels: 0." in over
    _, second = (load_file(path) for path in sorted((run / "episodes_2").iterdir()))
    second = f"round over / Round 2 of 2 is over / Episode 2: return {second['rewards'].sum():.2f}"
    assert any(text.startswith(second) for text in said)


def test_p_pauses_the_world(pygame, tmp_path, monkeypatch):
    person = person_in("LaneChange-v0", tmp_path)
    draw = person.draw
    seen = []

    def draw_and_look(colour, status, panel=(), fraction=None):
        seen.append((status, person.env.unwrapped.x))
        if status == "paused" and len([said for said, _ in seen if said == "paused"]) == 5:
            press(pygame, "p")
        draw(colour, status, panel, fraction)

    monkeypatch.setattr(person, "draw", draw_and_look)
    press(pygame, "p")
    person.env.step(np.zeros(2, np.float32))
    paused = [x for status, x in seen if status == "paused"]
    assert len(paused) == 5
    assert len(set(paused)) == 1
    assert len({x for status, x in seen if status != "paused"}) == 20


def test_before_an_episode_the_window_says_how_the_last_one_went(pygame, tmp_path, monkeypatch):
    person = person_in("LaneChange-v0", tmp_path)
    said = []
    monkeypatch.setattr(person, "draw", lambda _, status, panel=(): said.append([status, *panel]))
    done = False
    while not done:
        _, _, done, *_ = person.env.step(np.zeros(2, np.float32))
    person.env.reset()
    said.clear()
    person.fps = 1
    person.begin_episode()
    assert said == [["get ready", "Episode 2 of 4", "Episode 1: return 0.68, failed", ""]] * 2


def test_a_window_that_is_closed_in_an_episode_steers_nothing(pygame, tmp_path, capsys):
    person = person_in("CartPole-v1", tmp_path)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    _, gate = person(np.zeros((1, 4), np.float32), np.array([0]))
    assert gate.tolist() == [False]
    assert person.round_over
    assert f"--resume {tmp_path}" in capsys.readouterr().err


def test_what_a_command_did_is_said_until_something_else_happens(pygame, tmp_path):
    person = person_in("CartPole-v1", tmp_path)

    step_with(person, "backspace")
    assert person.message == "There is no correction to discard."
    step_with(person, "left")
    assert person.message == ""
    step_with(person, "backspace")
    assert person.message == "Discarded: the last correction (labels: 1)."
    person.begin_episode()
    assert person.message == ""


def test_keys_pressed_in_a_pause_steer_nothing(pygame, tmp_path, monkeypatch):
    person = person_in("CartPole-v1", tmp_path)
    draw = person.draw
    paused = []

    def draw_and_type(colour, status, panel=(), fraction=None):
        if status == "paused":
            paused.append(person.held_keys())
            press(pygame, "right" if len(paused) < 3 else "p")
        draw(colour, status, panel, fraction)

    monkeypatch.setattr(person, "draw", draw_and_type)
    press(pygame, "p")
    _, gate = person(np.zeros((1, 4), np.float32), np.array([0]))
    assert paused == [[], [], []]
    assert gate.tolist() == [False]


def test_commands_count_only_where_the_window_names_them(pygame, tmp_path):
    person = person_in("CartPole-v1", tmp_path)
    press(pygame, "right")
    person(np.zeros((1, 4), np.float32), np.array([0]))
    person.wait_for_space = lambda status, lines: None
    person.end_round()
    for key in ("p", "escape", "backspace"):
        press(pygame, key)
    person.next_frame = 0.0
    person.show_training(0.5, 63)
    assert not pygame.event.get()
    assert not person.paused
    assert len(person.corrections()[0]) == 1  # what the novice learns from is what is on disk


def test_after_the_last_episode_a_correction_can_still_be_discarded(
    pygame, tmp_path, monkeypatch, capsys
):
    person = person_in("CartPole-v1", tmp_path)
    press(pygame, "right")
    person(np.zeros((1, 4), np.float32), np.array([0]))
    draw = person.draw
    said = []

    def draw_and_discard(colour, status, panel=(), fraction=None):
        said.append(" / ".join([status, *panel]))
        if status == "round over" and len(said) < 3:
            press(pygame, ["backspace", "space"][len(said) - 1])
        draw(colour, status, panel, fraction)

    monkeypatch.setattr(person, "draw", draw_and_discard)
    obs, _ = person.end_round()
    assert len(obs) == 0
    assert "Of this round: corrections: 1, labels: 1." in said[0]
    assert "Discarded: the last correction (labels: 1)." in said[1]
    assert said[2] == "training / The novice learns"
    assert "round 1 of 2 is over: the novice learns, then round 2" in capsys.readouterr().err


def test_a_pause_ends_with_its_round(pygame, tmp_path):
    person = person_in("CartPole-v1", tmp_path)
    press(pygame, "p")
    press(pygame, "escape")
    person.show()
    press(pygame, "space")
    person.end_round()
    press(pygame, "space")
    person.begin_round(tmp_path, 2, TWO_ROUNDS, LAST)
    assert not person.paused
    assert not person.round_over


def test_backspace_discards_the_last_correction(pygame, tmp_path):
    person = person_in("CartPole-v1", tmp_path)

    step_with(person, "left")
    step_with(person)
    step_with(person, "right")
    step_with(person, "right", "backspace")  # the one under way; what comes after it is another one
    assert person.corrections()[1].tolist() == [0, 1]
    step_with(person, "backspace")
    assert person.corrections()[1].tolist() == [0]
    again = person_in("CartPole-v1", tmp_path)  # also one from before the run was stopped
    press(pygame, "backspace")
    again.show()
    assert len(again.corrections()[1]) == 0
    press(pygame, "backspace")  # nothing is left to discard
    again.show()
    assert not list(tmp_path.glob("corrections_1/*.safetensors"))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "LaneChange-v0"])
def test_a_key_that_is_held_is_lit_in_the_same_frame(env_id, pygame, tmp_path, monkeypatch):
    held = defaultdict(bool)
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: held)
    person = person_in(env_id, tmp_path)
    person.show()
    before = pygame.surfarray.array3d(person.screen)
    assert not (before == human.ORANGE).all(-1).any()
    held[pygame.K_LEFT] = True
    person.show()
    after = pygame.surfarray.array3d(person.screen)
    assert (after[:, 20] == human.ORANGE).all(-1).any()  # the bar
    assert (after[:, 50] == human.ORANGE).all(-1).any()  # the key


@pytest.mark.parametrize(
    "env_id, keys, action",
    [
        ("LunarLanderContinuous-v3", ["up", "left"], [1.0, -1.0]),
        ("LunarLanderContinuous-v3", ["space"], [0.0, 0.0]),
        ("MountainCarContinuous-v0", ["right"], [1.0]),
        ("Pendulum-v1", ["left"], [2.0]),
        ("Pendulum-v1", ["left", "right"], [0.0]),
        ("LunarLander-v3", ["up"], 2),
        ("Acrobot-v1", ["right"], 2),
        ("MountainCar-v0", ["space"], 1),
    ],
)
def test_keys_of_other_environments(env_id, keys, action, pygame, tmp_path):
    person = person_in(env_id, tmp_path)
    space = person.action_space
    for key in keys:
        press(pygame, key)
    proposals = np.array([space.sample()])
    actions, gate = person(np.zeros((1, person.obs_dim)), proposals)
    assert gate.tolist() == [True]
    np.testing.assert_array_equal(actions, [action])
    assert actions.dtype == proposals.dtype
    for chosen, meaning in person.keys.values():
        assert np.array(chosen, space.dtype) in space
        assert meaning
    obs, labels = person.corrections()
    assert obs.shape == (1, person.obs_dim)
    np.testing.assert_array_equal(labels, [action])


def test_the_episodes_of_a_round_say_who_acted(pygame, at_frame):
    at_frame({frame: lambda: press(pygame, "up") for frame in range(25, 50)})
    main("hg_dagger", *HUMAN, "--num-rounds", "1")
    run, _ = results_in("runs")
    first, second = (load_file(path) for path in sorted((run / "episodes_1").iterdir()))
    (path,) = run.glob("corrections_1/*.safetensors")
    correction = load_file(path)
    by_person = first["by_person"]
    assert torch.equal(first["obs"][:-1][by_person], correction["obs"])
    assert torch.equal(first["actions"][by_person], correction["actions"])
    assert not second["by_person"].any()
    for episode, seed in ((first, 1000), (second, 1001)):
        num_steps = len(episode["actions"])
        assert len(episode["obs"]) == num_steps + 1
        assert len(episode["rewards"]) == len(episode["truncated"]) == num_steps
        assert episode["terminated"].tolist() == [False] * (num_steps - 1) + [True]
        env = gym.make("LaneChange-v0")
        env.reset(seed=seed)
        for t in range(num_steps):
            obs, reward, *_ = env.step(episode["actions"][t].numpy())
            np.testing.assert_array_equal(obs, episode["obs"][t + 1])
            assert reward == pytest.approx(float(episode["rewards"][t]))


def test_digits_are_the_keys_of_another_discrete_environment(pygame, tmp_path, monkeypatch):
    monkeypatch.setattr(Lamps, "metadata", {"render_modes": ["rgb_array"]})
    picture = np.zeros((40, 60, 3), np.uint8)
    monkeypatch.setattr(Lamps, "render", lambda env: picture)
    monkeypatch.setattr(Lamps, "__init__", lambda env, render_mode=None: None)
    monkeypatch.setattr(Lamps, "render_mode", "rgb_array")
    person = person_in("Lamps-v0", tmp_path)
    press(pygame, "2")
    actions, _ = person(np.zeros((1, 2), np.float32), np.array([3]))
    assert actions.tolist() == [5]  # the third category of a space that starts at 3
