"""DAgger and HG-DAgger: who acts, what becomes a label, when the gate opens, and that a killed run goes on unharmed."""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import defaultdict
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from safetensors import SafetensorError, safe_open

import dagger
import hg_dagger
from experts import gates, load_expert, make_envs, play
from tests.test_cli import ROOT, STABLE_KEYS, Evil, refusal, results_in, run

SCRIPTS = ["dagger", "hg_dagger"]
CARTPOLE = ["--env-id", "CartPole-v1", "--num-demos", "1", "--label-every", "20", "--eval-episodes", "10"]
CARTPOLE += ["--hidden-dim", "64"]
QUIET = {"SDL_VIDEODRIVER": "dummy"}  # for CartPole's picture
ROAD = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-rounds", "2", "--num-updates", "1500"]
LEFT = ["--expert", "experts.driving:prefers_left"]
ROAD += ["--eval-episodes", "10", "--hidden-dim", "32"]


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def policy_for(module, env_id, **args):
    envs = make_envs(env_id, 1)
    return module.Policy(module.Args(**args), envs.single_observation_space, envs.single_action_space)


def test_with_beta_one_the_expert_acts_and_labels():
    envs, expert = make_envs("CartPole-v1", 4), load_expert("CartPole-v1")
    obs, labels, returns = dagger.visit(envs, expert, policy_for(dagger, "CartPole-v1"), 1.0, 6, 100, 1)
    np.testing.assert_array_equal(returns, play(expert, "CartPole-v1", 6, 100))
    assert len(obs) == len(labels) == returns.sum()
    np.testing.assert_array_equal(labels[:, 0], expert(obs.numpy()))


def test_with_beta_zero_the_policy_acts_and_the_expert_labels_its_states():
    envs, expert, policy = make_envs("CartPole-v1", 4), load_expert("CartPole-v1"), policy_for(dagger, "CartPole-v1")
    obs, labels, returns = dagger.visit(envs, expert, policy, 0.0, 6, 100, 1)
    np.testing.assert_array_equal(returns, play(lambda obs: act(policy, obs), "CartPole-v1", 6, 100))
    np.testing.assert_array_equal(labels[:, 0], expert(obs.numpy()))
    assert (labels[:, 0].numpy() != act(policy, obs.numpy())).mean() > 0.1  # they are not the policy's own


def act(policy, obs):
    return policy.act(torch.as_tensor(obs, dtype=torch.float32)).numpy()[:, 0].astype(np.int64)


def test_the_mixture_draws_anew_at_each_step_and_in_each_environment(monkeypatch):
    envs, done = make_envs("CartPole-v1", 8), []
    step = envs.step
    monkeypatch.setattr(envs, "step", lambda actions: done.append(actions) or step(actions))
    policy = policy_for(dagger, "CartPole-v1")
    monkeypatch.setattr(policy, "act", lambda obs: torch.zeros(len(obs), 1))
    dagger.visit(envs, lambda obs: np.ones(len(obs), np.int64), policy, 0.3, 200, 0, 1)
    actions = np.stack(done)  # 1 where the expert acted
    assert actions.mean() == pytest.approx(0.3, abs=0.03)
    assert 0.3 < (actions[1:] != actions[:-1]).mean() < 0.55 and (actions.std(axis=1) > 0).mean() > 0.8


def test_every_nth_label_of_all_episodes():
    envs, expert, policy = make_envs("CartPole-v1", 4), load_expert("CartPole-v1"), policy_for(dagger, "CartPole-v1")
    everything, _, _ = dagger.visit(envs, expert, policy, 0.0, 6, 100, 1)
    some, labels, _ = dagger.visit(envs, expert, policy, 0.0, 6, 100, 7)
    assert torch.equal(some, everything[::7]) and len(labels) == len(some)


def test_only_what_the_expert_did_in_control_is_marked_as_a_label():
    class EveryThird:
        closed, calls = False, 0

        def __call__(self, obs, proposed):
            self.calls += 1
            control = np.full(len(obs), self.calls % 3 == 0)
            return np.full(len(obs), 1, np.int64), control

    policy = policy_for(hg_dagger, "CartPole-v1")
    policy.act = lambda obs: torch.zeros(len(obs), 1)
    envs = make_envs("CartPole-v1", 3)
    obs, actions, rewards, control, taken, doubt, near = hg_dagger.drive(envs, policy, EveryThird(), 5, 0)
    assert np.array_equal(actions[:, 0] == 1, control) and 0.2 < control.mean() < 0.4
    assert np.array_equal(taken, control)  # each correction is one step long
    assert len(obs) == len(doubt) == len(near) == rewards.sum()


def test_a_take_over_is_the_first_step_of_a_correction_in_its_episode():
    class Always:
        closed = False

        def __call__(self, obs, proposed):
            return np.ones(len(obs), np.int64), np.ones(len(obs), bool)

    envs, policy = make_envs("CartPole-v1", 2), policy_for(hg_dagger, "CartPole-v1")
    lengths = play(lambda obs: np.ones(len(obs), np.int64), "CartPole-v1", 4, 0).astype(int)
    _, _, _, control, taken, _, _ = hg_dagger.drive(envs, policy, Always(), 4, 0)
    assert control.all() and np.flatnonzero(taken).tolist() == [0, *lengths.cumsum()[:-1]]


def test_near_failure_are_the_last_ten_steps_of_failed_episodes_only():
    envs, policy, expert = make_envs("CartPole-v1", 2), policy_for(hg_dagger, "CartPole-v1"), load_expert("CartPole-v1")
    policy.act = lambda obs: (obs[:, 2:3] > 0).float()  # falls after a while
    lengths = play(lambda obs: (obs[:, 2] > 0).astype(np.int64), "CartPole-v1", 4, 0).astype(int)
    *_, near = hg_dagger.drive(envs, policy, None, 4, 0)
    assert len(near) == lengths.sum() and lengths.min() > 10
    assert near.sum() == 40 and all(near[end - 10 : end].all() for end in lengths.cumsum())
    policy.act = lambda obs: torch.as_tensor(expert(obs.numpy()))[:, None]  # to the time limit
    assert not hg_dagger.drive(envs, policy, None, 4, 0)[-1].any()


def gate_on(disagreements, enter=0.5, steps=3):
    """The simulated gate's decisions where the novice is so far from an expert that always answers 0."""
    envs, policy = make_envs("Hopper-v4", 1), SimpleNamespace(action_moments=torch.tensor([[0.0] * 3, [2.0] * 3]))
    gate = gates.SimulatedGate(envs, lambda obs: np.zeros((1, 3)), policy, enter, steps)
    gate.reset(np.ones(1, bool))
    return [bool(gate(np.zeros((1, 11)), np.full((1, 3), 2.0 * d))[1][0]) for d in disagreements]


def test_the_simulated_gate_enters_late_and_leaves_late():
    assert gate_on([0.4] * 9) == [False] * 9
    assert gate_on([1.4, 0, 0, 0]) == [False] * 4  # one bad step is not serious: the mean is at 0.47
    assert gate_on([1.0, 1.0, 0.3, 0.1, 0.1, 0.1, 0.1]) == [False, True, True, True, True, False, False]
    assert gate_on([3.0, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1]) == [True] * 6 + [False]  # agreement is counted in a row
    assert gate_on([9.0, 9.0, 9.0, *[0.1] * 9]) == [True] * 5 + [False] * 7  # and ends it, whatever the mean


def test_the_look_ahead_sees_the_obstacle_and_moves_nothing():
    env = gym.make("LaneChange-v0").unwrapped
    env.reset(options={"y": 0.0, "speed": 10.0})
    straight, left = (lambda obs, y=y: np.array([[y, 0.0]]) for y in (0.0, 0.9))
    assert not env.ends_badly(straight, 3) and env.ends_badly(straight, 5) and not env.ends_badly(left, 9)
    assert env.x == 0.0 and not env.crashed and len(env.trail) == 1


def test_on_the_road_the_simulated_gate_takes_over_at_once_and_stays_until_the_danger_is_past(monkeypatch):
    envs, dangers = make_envs("LaneChange-v0", 1), [0, 1, 0, 0, 1, 0, 0, 0, 0]
    policy = SimpleNamespace(action_moments=torch.ones(2, 2), obs_moments=torch.ones(2, 4))
    gate = gates.SimulatedGate(envs, load_expert("LaneChange-v0"), policy, 0.1, 3)
    gate.reset(np.ones(1, bool))
    monkeypatch.setattr(envs.envs[0].unwrapped, "ends_badly", lambda *_: bool(dangers.pop(0)))
    control = [bool(gate(np.zeros((1, 4)), np.zeros((1, 2)))[1][0]) for _ in range(9)]
    assert control == [False, True, True, True, True, True, True, False, False]


def test_doubt_is_the_norm_of_the_ensembles_variances():
    policy = policy_for(hg_dagger, "Hopper-v4", ensemble_size=4)
    obs = torch.randn(5, 11)
    members = torch.stack([net(obs) for net in policy.nets]).detach().double().numpy()
    np.testing.assert_allclose(policy.doubt(obs), np.sqrt((members.var(axis=0) ** 2).sum(-1)), rtol=1e-4)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("env_id", ["Hopper-v4", "CartPole-v1"])
def test_labels_are_learnt(script, env_id):
    module = importlib.import_module(script)
    policy, obs = policy_for(module, env_id, hidden_dim=64), torch.randn(2000, 11 if env_id == "Hopper-v4" else 4)
    actions = torch.tanh(obs[:, :3]) if env_id == "Hopper-v4" else (obs[:, :1] > 0).float()
    policy.fit(obs, actions)
    before = policy.loss(obs, actions).item()
    args = module.Args(batch_size=256, learning_rate=1e-3)
    module.train(policy, obs, actions, 1000, args, SimpleNamespace(update=lambda: None))
    assert policy.loss(obs, actions).item() < 0.1 * before
    assert (policy.act(obs) - actions).abs().mean() < 0.1


@pytest.mark.parametrize(
    "schedule, betas",
    [("indicator", [1, 0, 0, 0]), ("exponential", [1, 0.5, 0.25, 0.125]), ("linear", [1, 2 / 3, 1 / 3, 0])],
)
def test_schedules_of_beta(schedule, betas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [*ROAD, "--num-rounds", "3", "--num-updates", "8", "--beta-schedule", schedule]
    dagger.main(tyro.cli(dagger.Args, args=flags))
    assert [line["beta"] for line in results_in(tmp_path / "runs")[1]["rounds"]] == pytest.approx(betas)


@pytest.mark.parametrize("script", SCRIPTS)
def test_end_to_end_from_a_short_demonstration(script, tmp_path):
    flags = ["--num-rounds", "4", "--num-updates", "2500", "--capture-video"]
    flags += ["--gate-enter", "0.5"] if script == "hg_dagger" else []
    done = run(script, *CARTPOLE, *flags, cwd=tmp_path, env=QUIET)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1, done.stderr
    directory, results = results_in(tmp_path / "runs")
    assert results.keys() >= set(STABLE_KEYS.split()) - {"success_rate", "mode_counts", "mode_entropy"}
    rounds = results["rounds"]
    assert len(rounds) == 5 and rounds[0]["expert_labels"] == 25 and rounds[0]["return_mean"] < 450
    assert results["return_mean"] > 480 and results["expert_labels"] == rounds[-1]["expert_labels"] < 600
    if script == "hg_dagger":
        assert rounds[-1]["expert_share"] < 0.3 * rounds[1]["expert_share"] and results["tau"] > 0
        assert all(line["correction_steps"] > 3 for line in rounds[1:] if line["corrections"] > 9)  # no flicker
        for line in rounds:
            assert line["states_inside"] + line["states_outside"] == pytest.approx(20 * line["return_mean"])
            assert line["near_failure_inside"] + line["near_failure_outside"] <= 200
        assert rounds[0]["states_inside"] == 0 < rounds[-1]["states_inside"]  # no doubt was recorded before round 1
    assert len(list((directory / "videos").glob("*.mp4"))) == 3
    again = run(
        script, *CARTPOLE, "--checkpoint", str(directory / "policy.safetensors"), "--run-dir", "b", cwd=tmp_path
    )
    assert results_in(tmp_path / "b")[1]["eval_returns"] == results["eval_returns"], again.stderr


def finished_rounds(directory):
    try:
        with safe_open(directory / "state.safetensors", framework="pt") as file:
            return len(json.loads(file.metadata()["metadata"])["rounds"])
    except (OSError, SafetensorError):
        return -1


@pytest.fixture(scope="module", params=SCRIPTS)
def uninterrupted(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    done = run(request.param, *ROAD, *LEFT, cwd=directory)
    assert done.returncode == 0, done.stderr
    return request.param, results_in(directory / "runs")[1]


STOPS = [(1, signal.SIGKILL), (1, signal.SIGINT)]
STOPS += [pytest.param(moment, signal.SIGKILL, marks=pytest.mark.slow) for moment in (0, 2)]


@pytest.mark.parametrize("moment, number", STOPS)
def test_a_stopped_run_goes_on_to_the_same_numbers(uninterrupted, moment, number, tmp_path):
    script, expected = uninterrupted
    command = [sys.executable, str(ROOT / f"{script}.py"), *ROAD, *LEFT]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        directories = list(tmp_path.glob("runs/*"))
        if directories and finished_rounds(directories[0]) >= moment:
            break
        time.sleep(0.01)
    time.sleep(0.05)  # into the next round
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    (directory,) = directories
    if number == signal.SIGINT:
        assert f"--resume {directory.relative_to(tmp_path)}" in errors and "Traceback" not in errors
    assert finished_rounds(directory) < 3 and not (directory / "results.json").exists()
    resumed = run(script, "--resume", str(directory), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    _, results = results_in(tmp_path / "runs")
    for key in ("eval_returns", "rounds", "expert_labels", "tau"):
        assert results.get(key) == expected.get(key), key


WRONG = {
    "resume of nothing": (["--resume", "nowhere"], "--resume nowhere"),
    "more rounds than updates": (["--num-rounds", "9999"], "--num-rounds must be less than --num-updates"),
    "negative rounds": (["--num-rounds", "-1"], "--num-rounds must be at least 0"),
    "negative seed": (["--seed", "-1"], "--seed must be at least 0"),
    "demonstrations of another kind": (["--demo-env-id", "Hopper-v4"], "--demo-env-id Hopper-v4 has other"),
    "no episodes": (["--episodes-per-round", "0"], "--episodes-per-round must be at least 1"),
    "no labels": (["--label-every", "0"], "--label-every must be at least 1"),
    "demonstrations from nowhere": (["--demo-env-id", "Hoper-v4"], "--env-id Hoper-v4 cannot be made"),
    "no expert": (["--env-id", "MountainCar-v0"], "--expert module:callable"),
}
WRONG_OF_HG = {
    "no ensemble": (["--ensemble-size", "0"], "--ensemble-size must be at least 1"),
    "no screen": (["--gate", "human"], "--gate human needs a screen"),
    "nothing to steer": (["--gate", "human", "--env-id", "Hopper-v4"], "--gate human steers"),
}
ALL = [("dagger", *case) for case in WRONG.values()]
ALL += [("hg_dagger", *case) for case in (WRONG | WRONG_OF_HG).values()]


@pytest.mark.parametrize("script, flags, expected", ALL)
def test_wrong_input_is_answered_in_two_lines_and_leaves_nothing(
    script, flags, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert expected in refusal(script, [*ROAD, *flags], tmp_path, capsys)


@pytest.mark.parametrize("script", SCRIPTS)
def test_resuming_never_runs_code(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.safetensors").write_bytes(pickle.dumps(Evil()))
    monkeypatch.chdir(tmp_path)
    assert "--resume run is not a run that can go on" in refusal(script, ["--resume", "run"], tmp_path, capsys)


@pytest.fixture
def keyboard(monkeypatch):
    """A window that nobody sees, and a function that types into it."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    monkeypatch.setattr(pygame.display, "get_driver", lambda: "virtual")
    yield lambda name: pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(name)))
    pygame.display.quit()


def test_keys_take_over_let_go_and_leave_a_file(keyboard, tmp_path, monkeypatch):
    import pygame

    held = defaultdict(bool)
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: held)
    gate = gates.HumanGate("CartPole-v1").begin(tmp_path, 1)
    obs, novice = np.arange(4.0)[None], np.array([0])
    gate.reset(np.ones(1, bool))
    assert gate(obs, novice)[1].tolist() == [False]
    for key, action in (("right", 1), ("left", 0), (None, 1)):
        if key:
            keyboard(key)  # a tap between two decisions counts for the next
        held[pygame.K_RIGHT] = not key
        actions, control = gate(obs, novice)
        assert (actions.tolist(), control.tolist()) == ([action], [True])
    assert not list(gate.directory.iterdir())
    held.clear()
    assert gate(obs, novice)[1].tolist() == [False]
    assert len(list(gate.directory.iterdir())) == 1  # on disk as soon as it ends
    keyboard("left")
    gate.reset(np.ones(1, bool))  # what was typed before an episode steers nothing
    assert gate(obs, novice)[1].tolist() == [False]
    kept, actions = gates.HumanGate("CartPole-v1").begin(tmp_path, 1).corrections()
    assert kept.tolist() == [[0, 1, 2, 3]] * 3 and actions.tolist() == [[1], [0], [1]]


def test_changing_speed_keeps_the_lane(keyboard, tmp_path):
    gate = gates.HumanGate("LaneChange-v0").begin(tmp_path, 1)
    keyboard("right")
    gate.show()
    np.testing.assert_allclose(gate(np.array([[0.1, 0.9, 0, 0]]), np.zeros((1, 2), np.float32))[0], [[0.9, 1.0]])


def test_closing_the_window_ends_the_round_and_trains_on_what_there_is(keyboard, tmp_path, monkeypatch, capsys):
    import pygame

    monkeypatch.chdir(tmp_path)
    show, frames = gates.HumanGate.show, []

    def person(gate):
        frames.append(gate)
        gate.fps = 1000
        if 60 < len(frames) < 90:
            keyboard("up")
        if len(frames) == 150:
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        show(gate)

    monkeypatch.setattr(gates.HumanGate, "show", person)
    flags = ["--env-id", "LaneChange-v0", "--gate", "human", "--num-demos", "2", "--num-rounds", "3"]
    flags += ["--num-updates", "40", "--eval-episodes", "5"]
    hg_dagger.main(tyro.cli(hg_dagger.Args, args=flags))
    directory, results = results_in(tmp_path / "runs")
    assert str(directory.relative_to(tmp_path)) in capsys.readouterr().out
    assert len(results["rounds"]) == 2 and results["rounds"][1]["corrections"] == 1
    assert 0 < results["expert_labels"] - results["rounds"][0]["expert_labels"] < 4
    assert len(list(directory.glob("corrections_1/*.safetensors"))) == 1
