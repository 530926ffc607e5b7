"""DAgger and HG-DAgger: who acts, what becomes a label, when the gate opens, and what tau is."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import dagger
import hg_dagger
from tests import walk
from tests.walk import args_for, by_seed, walk_envs

SIZES = [(1, 3), (4, 4), (3, 8), (4, 6)]  # environments, and episodes of a round


@pytest.fixture
def long(monkeypatch):
    """Episodes of nine steps, whatever the seed; a tenth action of the expert is out of bounds."""
    monkeypatch.setattr(walk, "length", lambda seed: 9)


def states_of(seeds):
    """Seed and step of each state of these episodes, in the order of a batch of environments."""
    steps = range(max(map(walk.length, seeds)))
    return [(seed, t) for t in steps for seed in seeds if t < walk.length(seed)]


def pairs(states):
    return [(int(seed), int(t)) for seed, t in states[:, :2]]


class Logged(gym.Wrapper):
    """Notes each action, by the seed and the step of the state."""

    def __init__(self, env, log):
        super().__init__(env)
        self.log = log

    def step(self, action):
        seed, t, _ = self.unwrapped.obs.astype(int)
        assert (seed, t) not in self.log
        self.log[seed, t] = float(action[0])
        return super().step(action)


def expected_actions(controlled):
    """By state: the expert's action where it is in control, otherwise the novice's."""
    actions = by_seed(np.array(list(controlled)))[:, 0]
    return dict(zip(controlled, np.where(list(controlled.values()), actions, -1), strict=True))


def careless(obs):
    """by_seed, as a list, and it overwrites its observations."""
    actions = by_seed(obs).tolist()
    obs[:] = 0
    return actions


class Novice:
    """Always acts by -1. Its distance to the expert is in a table, and large after an episode."""

    def __init__(self, distances):
        self.distances = distances

    def act(self, obs):
        self.asked = obs.copy()
        return np.full((len(obs), 1), -1, np.float32)

    def distance(self, actions, others):
        np.testing.assert_array_equal(actions, by_seed(self.asked))
        assert (others == -1).all()
        return np.array([self.distances.get(state, 9.0) for state in pairs(self.asked)])


def collect(i=1, num_envs=4, expert=by_seed, **arguments):
    """States, labels and actions of round i."""
    _, args = args_for("dagger", **arguments)
    args.expert = f"{expert.__module__}:{expert.__name__}"
    log = {}
    envs = [Logged(env, log) for env in walk_envs(num_envs)]
    visited, labels = dagger.collect_round(args, envs, Novice({}), i)
    return visited.numpy(), labels.numpy(), log


@pytest.mark.parametrize("num_envs, num_episodes", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_expert_labels_every_visited_state_whoever_acts(num_envs, num_episodes, beta):
    arguments = {"episodes_per_round": num_episodes, "beta": beta, "seed": 3}
    visited, labels, log = collect(2, num_envs, **arguments)
    states = states_of(range(3_600_000 + num_episodes, 3_600_000 + 2 * num_episodes))
    assert sorted(pairs(visited)) == sorted(states)
    np.testing.assert_array_equal(labels, by_seed(visited))
    assert log.keys() == set(states)  # episodes that are over are not stepped
    if beta in (0, 1):
        assert log == expected_actions(dict.fromkeys(states, beta == 1))


def acted_by_expert(i, **arguments):
    """Whether the expert acted in each step (9, 100) of round i."""
    visited, _, log = collect(i, 100, episodes_per_round=100, **arguments)
    return np.array([log[state] != -1 for state in pairs(visited)]).reshape(9, 100)


def test_the_expert_acts_with_probability_beta_to_the_power_of_the_round(long):
    """Drawn anew in each step and in each environment, from a seed of the run and the round."""
    assert acted_by_expert(1, beta=0.55).mean() == pytest.approx(0.55, abs=0.05)
    by_expert = acted_by_expert(2, beta=0.55)
    share = 0.55**2
    assert by_expert.mean() == pytest.approx(share, abs=0.05)
    changes = 2 * share * (1 - share)
    assert (by_expert[1:] != by_expert[:-1]).mean() == pytest.approx(changes, abs=0.06)
    assert (by_expert[:, 1:] != by_expert[:, :-1]).mean() == pytest.approx(changes, abs=0.06)
    np.testing.assert_array_equal(acted_by_expert(2, beta=0.55), by_expert)
    assert (acted_by_expert(1, beta=share) != by_expert).mean() > 0.2
    assert (acted_by_expert(2, beta=0.55, seed=1) != by_expert).mean() > 0.2


def play(distances, num_envs=4, num_episodes=4, steps=1, expert=by_seed):
    """States, labels, take-overs and actions of round 1."""
    arguments = {"gate_steps": steps, "gate_threshold": 0.5, "episodes_per_round": num_episodes}
    _, args = args_for("hg_dagger", **arguments)
    args.expert = f"{expert.__module__}:{expert.__name__}"
    log = {}
    envs = [Logged(env, log) for env in walk_envs(num_envs)]
    novice = Novice(distances)
    gate = hg_dagger.SimulatedGate(args, envs, novice)
    hg_dagger.play_round(args, envs, novice, gate, 1)
    return *map(np.concatenate, gate.end_round()), log


def in_control(distances, seeds, steps):
    """By state, whether the gate is open: above 0.5, then above 0.25; and where it opens."""
    controlled = {}
    take_overs = []
    for seed in seeds:
        mean = 0.0
        was_open = False
        for t in range(walk.length(seed)):
            mean += (distances[seed, t] - mean) / steps
            controlled[seed, t] = mean > (0.25 if was_open else 0.5)
            if controlled[seed, t] and not was_open:
                take_overs.append((seed, t))
            was_open = controlled[seed, t]
    return controlled, take_overs


@pytest.mark.parametrize("num_envs, num_episodes", SIZES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_expert_acts_and_labels_while_in_control(num_envs, num_episodes, steps, monkeypatch):
    """A running mean over steps with hysteresis; each episode begins with the novice."""
    monkeypatch.setattr(walk, "length", lambda seed: 2 + 3 * seed % 8)
    seeds = range(600_000, 600_000 + num_episodes)
    rng = np.random.default_rng(num_episodes)
    distances = {state: rng.choice([0, 0.25, 0.5, 0.5, 3]) for state in states_of(seeds)}
    controlled, starts = in_control(distances, seeds, steps)
    states, labels, take_overs, log = play(distances, num_envs, num_episodes, steps)
    assert log == expected_actions(controlled)
    assert sorted(pairs(states)) == [state for state in sorted(controlled) if controlled[state]]
    np.testing.assert_array_equal(labels, by_seed(states))
    assert sorted(pairs(take_overs)) == starts
    assert 0 < len(starts) < len(states) < len(controlled)


def test_an_expert_may_change_its_observations_and_return_a_list():
    states = states_of(range(600_000, 600_004))
    rounds = collect(expert=careless, beta=1.0), play(dict.fromkeys(states, 9.0), expert=careless)
    for visited, labels, *_, log in rounds:
        assert pairs(visited) == states
        np.testing.assert_array_equal(labels, by_seed(visited))
        assert log == expected_actions(dict.fromkeys(states, True))


@pytest.mark.parametrize("script", ["dagger", "hg_dagger"])
def test_a_round_trains_on_all_labels_so_far(script, monkeypatch, tmp_path):
    """Three rounds of three episodes, half of the labels kept; HG-DAgger's gate is always open.

    The doubt is the seed here, so that tau says which take-overs it is the mean of.
    """
    arguments = {"num_demos": 2, "num_rounds": 3, "episodes_per_round": 3, "num_updates": 403}
    arguments |= {"seed": 1, "label_share": 0.5, "hidden_dim": 4, "eval_episodes": 2}
    if script == "hg_dagger":
        arguments |= {"gate_threshold": 1e-9, "gate_steps": 1}
        monkeypatch.setattr(hg_dagger.Policy, "doubt", lambda policy, obs: obs[:, 0])
    module, args = args_for(script, run_dir=str(tmp_path), **arguments)
    trained = []
    experts = []
    taus = []

    def train(args, policy, obs, actions, num_updates, progress):
        trained.append((obs.numpy(), actions.numpy(), num_updates, torch.initial_seed()))
        return 0.25

    def load_expert(env_id, expert, seed):
        experts.append((env_id, expert, seed))
        return by_seed

    def add_scalar(writer, name, value, i):
        if name == "round/tau":
            taus.append((i, value))

    monkeypatch.setattr(module.SummaryWriter, "add_scalar", add_scalar)
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "load_expert", load_expert)
    module.main(args)

    data = []
    for i in range(4):
        first = 1_600_000 + 3 * (i - 1)
        states = states_of(range(first, first + 3))
        rng = np.random.default_rng(1_800_000 + i)
        if i == 0:
            states = states_of([1_000_000]) + states_of([1_000_001])
        elif script == "dagger":
            rng.random((max(t for _, t in states) + 1, 3))  # who acts, in each step
        kept = rng.random(len(states)) < 0.5
        data += [state for state, is_kept in zip(states, kept, strict=True) if is_kept]
        obs, actions, num_updates, seed = trained[i]
        assert pairs(obs) == data
        np.testing.assert_array_equal(actions, by_seed(obs))
        assert num_updates == 100
        assert seed == 1_600_000 + i
        assert experts == [("Walk-v0", "tests.walk:by_seed", 1_700_000 + i) for i in range(4)]
    (run,) = tmp_path.iterdir()
    state = torch.load(run / "state.pt", weights_only=True)
    results = state["results"]
    np.testing.assert_array_equal(state["obs"], trained[-1][0])
    np.testing.assert_array_equal(state["actions"], trained[-1][1])
    for line, (obs, *_) in zip(results["rounds"], trained, strict=True):
        assert (line["expert_labels"], line["loss"]) == (len(obs), 0.25)
    assert results["expert_labels"] == len(data)
    if script == "hg_dagger":
        assert results["doubts"] == list(range(1_600_000, 1_600_009))  # of first steps
        assert taus == [(1, 1_600_002), (2, 1_600_004.5), (3, 1_600_007)]
        assert results["tau"] == 1_600_007
