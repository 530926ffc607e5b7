"""DAgger and HG-DAgger: who acts, what becomes a label, when the gate opens, and what tau is."""

import numpy as np
import pytest
import torch

import dagger
import hg_dagger
from tests import walk
from tests.walk import Watcher, args_for, by_seed, walk_envs

DAGGERS = ["dagger", "hg_dagger"]


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def endless(monkeypatch):
    """Episodes of 12 steps, whatever the seed."""
    monkeypatch.setattr(walk, "length", lambda seed: 12)


def states_of(seeds):
    """Seed and step of each state of these episodes, sorted."""
    return sorted((seed, t) for seed in seeds for t in range(walk.length(seed)))


def pairs(states):
    return sorted((int(seed), int(t)) for seed, t in states[:, :2])


# --- DAgger: one round ---


class Novice:
    """Always acts by -1."""

    def act(self, obs):
        return np.full((len(obs), 1), -1, np.float32)


def drive(num_envs=4, beta=0.0, seed=40, **arguments):
    _, args = args_for("dagger", **arguments)
    return dagger.drive(args, walk_envs(num_envs), Novice(), by_seed, beta, seed)


@pytest.mark.parametrize("num_envs, num_episodes", [(1, 3), (4, 4), (3, 8), (4, 6)])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_expert_labels_every_visited_state_whoever_acts(num_envs, num_episodes, beta):
    visited, labels = drive(num_envs, beta, episodes_per_round=num_episodes)
    assert pairs(visited) == states_of(range(40, 40 + num_episodes))
    np.testing.assert_array_equal(labels, by_seed(visited))


def test_with_beta_zero_the_policy_acts():
    visited, _ = drive(beta=0.0)
    later = visited[visited[:, 1] > 0]
    assert later[:, 2].tolist() == [-1.0] * 6


def test_with_beta_one_the_expert_acts():
    visited, _ = drive(beta=1.0)
    later = visited[visited[:, 1] > 0]
    before = later - [0, 1, 0]
    np.testing.assert_array_equal(later[:, 2:], by_seed(before))


def acted_by_expert(seed):
    """Whether the expert acted in each step (steps, episodes), of 100 episodes with beta 0.3."""
    visited, _ = drive(100, 0.3, seed, episodes_per_round=100)
    order = np.lexsort((visited[:, 0], visited[:, 1]))
    return (visited[order, 2] != -1).reshape(12, 100)[1:]  # the actions before steps 1 to 11


def test_who_acts_is_drawn_anew_in_each_step_and_in_each_environment(endless):
    by_expert = acted_by_expert(40)
    assert by_expert.mean() == pytest.approx(0.3, abs=0.05)
    changes_in_time = (by_expert[1:] != by_expert[:-1]).mean()
    changes_between_episodes = (by_expert[:, 1:] != by_expert[:, :-1]).mean()
    assert changes_in_time == pytest.approx(2 * 0.3 * 0.7, abs=0.06)
    assert changes_between_episodes == pytest.approx(2 * 0.3 * 0.7, abs=0.06)


def test_who_acts_depends_on_the_seed_of_the_round(endless):
    np.testing.assert_array_equal(acted_by_expert(40), acted_by_expert(40))
    assert (acted_by_expert(40) != acted_by_expert(41)).mean() > 0.2


def test_an_expert_that_reuses_its_array_labels_as_any_other():
    _, args = args_for("dagger")
    reused = np.zeros((4, 1), np.float32)

    def careless(obs):
        reused[:] = by_seed(obs)
        obs[:] = 0
        return reused

    visited, labels = dagger.drive(args, walk_envs(4), Novice(), careless, 0.0, 40)
    assert pairs(visited) == states_of(range(40, 44))
    np.testing.assert_array_equal(labels, by_seed(visited))


def as_list(obs):
    return by_seed(obs).tolist()


def test_an_expert_may_return_a_list():
    _, args = args_for("dagger")
    visited, labels = dagger.drive(args, walk_envs(4), Novice(), as_list, 0.5, 40)
    np.testing.assert_array_equal(labels, by_seed(visited))


def test_an_expert_that_corrects_may_return_a_list():
    _, args = args_for("hg_dagger", gate_steps=1)
    novice = GatedNovice(dict.fromkeys(range(40, 44), FAR))
    states, labels, _, _ = hg_dagger.drive(args, walk_envs(4), novice, as_list, None, 40)
    assert pairs(states) == states_of(range(40, 44))
    np.testing.assert_array_equal(labels, by_seed(states))


def steps_by_seed(states):
    """The labelled steps of each episode."""
    steps = {}
    for seed, t in pairs(states):
        steps.setdefault(seed, []).append(t)
    return steps


def are_every_fifth(steps):
    """Of the twelve steps of an endless episode, every fifth from one of the first five on."""
    return steps in [list(range(first, 12, 5)) for first in range(5)]


def test_every_nth_state_of_each_episode_is_labelled_from_a_random_one_on(endless):
    visited, labels = drive(4, episodes_per_round=40, label_every=5)
    steps = steps_by_seed(visited)
    assert set(steps) == set(range(40, 80))
    assert all(are_every_fifth(steps[seed]) for seed in steps)
    assert {steps[seed][0] for seed in steps} == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(labels, by_seed(visited))


@pytest.mark.parametrize(
    "schedule, betas",
    [
        ("indicator", [1, 0, 0, 0, 0]),
        ("exponential", [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]),
        ("linear", [1, 3 / 4, 1 / 2, 1 / 4, 0]),
    ],
)
def test_schedules_of_beta(schedule, betas):
    args = dagger.Args(num_rounds=4, beta_schedule=schedule)
    assert [dagger.get_beta(args, number) for number in range(5)] == pytest.approx(betas)


# --- All rounds ---


class Rounds:
    """Runs `dagger` or `hg_dagger` without training, and notes what happens in each round."""

    def __init__(self, script, monkeypatch, finished=0, doubts=(), **arguments):
        self.module, self.args = args_for(script, **arguments)
        self.doubts = list(doubts)  # of each round
        self.driven = []
        self.trained = []
        self.expert_seeds = []
        self.saved = []
        monkeypatch.setattr(self.module, "drive", self.drive)
        monkeypatch.setattr(self.module, "train", self.train)
        monkeypatch.setattr(self.module, "save", self.save)
        monkeypatch.setattr(self.module, "load_expert", self.load_expert)
        results = {"return_mean": 0.0}
        monkeypatch.setattr(self.module, "evaluate", lambda *_: results)

        self.metadata = {"rounds": [{}] * finished, "doubts": [], "train_seconds": 0.0}
        obs = torch.zeros(2, 3)
        actions = torch.zeros(2, 1)
        rest = [Watcher(), self.metadata]
        if script == "hg_dagger":
            arguments = [walk_envs(2), walk_envs(2), None, None, *rest]
        else:
            arguments = [walk_envs(2), None, *rest]
        getattr(self.module, script)(self.args, None, obs, actions, *arguments)

    def drive(self, args, envs, policy, expert, beta_or_human, seed):
        """Each round brings three states, and labels, with its number."""
        self.driven.append((seed, beta_or_human))
        number = len(self.driven)
        states = np.full((3, 3), number, np.float32)
        labels = np.full((3, 1), number, np.float32)
        if self.module is dagger:
            return states, labels
        return states, labels, self.doubts[number - 1] if self.doubts else [], 0.5

    def train(self, args, policy, obs, actions, num_updates, progress, human=None):
        assert torch.equal(obs[:, :1], actions)
        self.trained.append((actions.flatten().tolist(), num_updates, torch.initial_seed()))
        return 0.0

    def load_expert(self, env_id, expert, seed):
        self.expert_seeds.append(seed)

    def save(self, policy, run, metadata, obs, actions):
        self.saved.append((len(obs), metadata["expert_labels"], metadata["rounds"][-1]))


@pytest.mark.parametrize("script", DAGGERS)
def test_a_round_trains_on_the_demonstrations_and_all_labels_so_far(script, monkeypatch):
    rounds = Rounds(script, monkeypatch, num_rounds=3)
    data = [labels for labels, _, _ in rounds.trained]
    assert data == [
        [0, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 1, 1, 1, 2, 2, 2],
        [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    ]
    assert [(size, count) for size, count, _ in rounds.saved] == [(2, 2), (5, 5), (8, 8), (11, 11)]
    assert [line["expert_labels"] for line in rounds.metadata["rounds"]] == [2, 5, 8, 11]


@pytest.mark.parametrize("script", DAGGERS)
def test_a_round_depends_on_a_seed_of_its_own(script, monkeypatch):
    rounds = Rounds(script, monkeypatch, num_rounds=3, seed=7)
    assert [seed for seed, _ in rounds.driven] == [7_001_000, 7_002_000, 7_003_000]
    assert rounds.expert_seeds == [7_001_000, 7_002_000, 7_003_000]
    seeds = [seed for _, _, seed in rounds.trained]
    assert seeds == [7_000_000, 7_001_000, 7_002_000, 7_003_000]


@pytest.mark.parametrize("script", DAGGERS)
def test_the_updates_are_shared_by_demonstrations_and_rounds(script, monkeypatch):
    rounds = Rounds(script, monkeypatch, num_rounds=3, num_updates=403)
    assert [num_updates for _, num_updates, _ in rounds.trained] == [100] * 4


@pytest.mark.parametrize("script", DAGGERS)
def test_a_resumed_run_does_the_rounds_that_remain(script, monkeypatch):
    rounds = Rounds(script, monkeypatch, finished=2, num_rounds=3)
    assert [seed for seed, _ in rounds.driven] == [2_000, 3_000]
    assert len(rounds.metadata["rounds"]) == 4


def test_each_round_has_its_beta(monkeypatch):
    rounds = Rounds("dagger", monkeypatch, num_rounds=2, beta_schedule="linear")
    assert [beta for _, beta in rounds.driven] == [0.5, 0.0]
    assert [line["beta"] for line in rounds.metadata["rounds"]] == [1.0, 0.5, 0.0]


def test_tau_is_the_mean_of_the_last_quarter_of_all_doubts_at_take_over(monkeypatch):
    doubts = [[], [8.0, 1.0, 2.0], [3.0, 5.0, 9.0, 4.0, 7.0, 6.0]]
    rounds = Rounds("hg_dagger", monkeypatch, doubts=doubts, num_rounds=3)
    taus = [line["tau"] for line in rounds.metadata["rounds"]]
    assert taus == [0.0, 0.0, 2.0, np.mean([4.0, 7.0, 6.0])]  # of none, none, 3 and 9
    assert rounds.metadata["tau"] == taus[-1]
    assert [line["take_overs"] for line in rounds.metadata["rounds"]] == [0, 0, 3, 6]
    assert rounds.metadata["doubts"] == doubts[1] + doubts[2]


# --- HG-DAgger: one round ---


class GatedNovice:
    """Acts by -1. Its distance to the expert is what a table says of episode and step.

    The doubt of a state is 100 * seed + step.
    """

    def __init__(self, distances):
        self.distances = distances  # seed -> distance in each step
        self.asked = None

    def act_and_doubt(self, obs):
        self.asked = obs.copy()
        doubt = 100 * obs[:, 0] + obs[:, 1]
        return np.full((len(obs), 1), -1, np.float32), doubt

    def distance(self, actions, others):
        np.testing.assert_array_equal(actions, by_seed(self.asked))
        assert (others == -1).all()
        found = []
        for seed, t, _ in self.asked.astype(int):
            row = self.distances.get(seed, [])
            found.append(row[t] if t < len(row) else 0.0)
        return np.array(found)


def hg_drive(distances, num_envs=4, label_every=1, num_episodes=4, steps=1, threshold=0.5):
    """One round; returns also who acted: for each seed the steps in which it was the expert."""
    arguments = {"episodes_per_round": num_episodes, "label_every": label_every}
    _, args = args_for("hg_dagger", gate_steps=steps, gate_threshold=threshold, **arguments)
    envs = walk_envs(num_envs)
    acted = {}
    plain_step = envs.step
    novice = GatedNovice(distances | {-4: FAR})  # -4: after the end of an episode

    def step(actions):
        for (seed, t, _), action in zip(novice.asked.astype(int), actions, strict=True):
            if action[0] != -1 and seed >= 0 and t < walk.length(seed):
                np.testing.assert_array_equal(action, by_seed(np.array([[seed, t, 0]]))[0])
                acted.setdefault(int(seed), []).append(int(t))
        return plain_step(actions)

    envs.step = step
    round_ = hg_dagger.drive(args, envs, novice, by_seed, None, 40)
    return *round_, acted


FAR = [9.0] * 12


def test_the_novice_acts_and_nothing_is_labelled_where_they_agree():
    states, labels, take_overs, share, acted = hg_drive({})
    assert states.shape == (0, 3)
    assert labels.shape == (0, 1)
    assert take_overs == []
    assert share == 0.0
    assert acted == {}


@pytest.mark.parametrize("num_envs, num_episodes", [(4, 4), (3, 8), (1, 3)])
def test_the_expert_acts_and_labels_where_they_disagree(num_envs, num_episodes):
    seeds = range(40, 40 + num_episodes)
    disagreeing = {seed: FAR for seed in seeds if seed % 3}
    round_ = hg_drive(disagreeing, num_envs, num_episodes=num_episodes)
    states, labels, take_overs, share, acted = round_
    assert pairs(states) == states_of(disagreeing)
    np.testing.assert_array_equal(labels, by_seed(states))
    assert sorted(take_overs) == [100 * seed for seed in disagreeing]
    assert share == pytest.approx(len(states_of(disagreeing)) / len(states_of(seeds)))
    assert acted == {seed: list(range(walk.length(seed))) for seed in disagreeing}


def test_the_labels_are_those_of_the_steps_in_control(endless):
    far = [0, 0, 9, 9, 0, 0, 0, 9, 0, 0, 0, 9]
    states, labels, take_overs, share, acted = hg_drive({41: far, 43: FAR[:1]})
    assert acted == {41: [2, 3, 7, 11], 43: [0]}
    assert pairs(states) == [(41, 2), (41, 3), (41, 7), (41, 11), (43, 0)]
    np.testing.assert_array_equal(labels, by_seed(states))
    assert sorted(take_overs) == [4102, 4107, 4111, 4300]
    assert share == 5 / 48


def test_every_nth_step_in_control_is_a_label_and_every_take_over_counts(endless):
    far = [0, 0, 9, 9, 9, 9, 9, 0, 9, 9, 9, 9]
    states, _, take_overs, share, acted = hg_drive({41: far}, label_every=5)
    assert acted == {41: [2, 3, 4, 5, 6, 8, 9, 10, 11]}
    possible = [list(range(first, 12, 5)) for first in range(5)]
    assert [t for _, t in pairs(states)] in [
        [t for t in steps if t in acted[41]] for steps in possible
    ]
    assert take_overs == [4102, 4108]
    assert share == 9 / 48


def test_every_nth_step_in_control_is_a_label_from_a_random_one_on(endless):
    seeds = range(40, 80)
    states, *_ = hg_drive(dict.fromkeys(seeds, FAR), num_episodes=40, label_every=5)
    steps = steps_by_seed(states)
    assert set(steps) == set(seeds)
    assert all(are_every_fifth(steps[seed]) for seed in steps)
    assert {steps[seed][0] for seed in steps} == {0, 1, 2, 3, 4}


def test_the_gate_opens_above_the_threshold_and_closes_below_half_of_it(endless):
    """The running mean of the disagreement, over two steps, with a threshold of 0.5."""
    distances = [1.0, 1.0, 0.2, 0.4, 0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.0]
    mean = 0.0
    in_control = False
    expected = []
    means = []
    for t, distance in enumerate(distances):
        mean = (mean + distance) / 2
        means.append(mean)
        in_control = mean > (0.25 if in_control else 0.5)
        if in_control:
            expected.append(t)
    assert expected == [1, 2, 3, 4, 5, 9, 10, 11]
    *_, acted = hg_drive({41: distances}, steps=2)
    assert acted == {41: expected}
    assert any(0.25 < means[t] < 0.5 for t in range(12) if t in expected)  # hysteresis
    assert any(0.25 < means[t] < 0.5 for t in range(12) if t not in expected)


def test_a_new_episode_begins_with_the_novice_and_without_disagreement(endless):
    """The mean of the first episode would open the gate of the second at once."""
    *_, acted = hg_drive({40: FAR, 41: [0.6] * 12}, num_envs=1, num_episodes=2, steps=3)
    assert acted[40] == list(range(12))
    mean = 0.0
    first = None
    for t in range(12):
        mean += (0.6 - mean) / 3
        if mean > 0.5 and first is None:
            first = t
    assert first > 2
    assert acted[41] == list(range(first, 12))


def test_a_take_over_in_the_first_step_of_each_episode_counts(endless):
    *_, take_overs, _, _ = hg_drive({40: FAR, 41: FAR}, num_envs=1, num_episodes=2)
    assert take_overs == [4000, 4100]


def test_corrections_of_another_shape_are_refused(capsys):
    _, args = args_for("hg_dagger")
    with pytest.raises(SystemExit):
        hg_dagger.drive(args, walk_envs(4), GatedNovice({}), lambda obs: obs, None, 40)
    assert "(4, 1) are needed, not (4, 3)" in capsys.readouterr().err


class Person:
    """Drives in every third step, by 5; the corrections on disk are what becomes a label."""

    def __init__(self, ends_after=None):
        self.round_over = False
        self.ends_after = ends_after
        self.num_calls = 0
        self.num_episodes = 0

    def begin_episode(self):
        self.num_episodes += 1

    def __call__(self, obs, proposals):
        self.num_calls += 1
        self.round_over = self.num_calls == self.ends_after
        drives = np.array([self.num_calls % 3 == 0])
        return np.full_like(proposals, 5.0), drives

    def end_round(self):
        return np.full((2, 3), 7.0), np.full((2, 1), 5.0)


def human_drive(person):
    _, args = args_for("hg_dagger", episodes_per_round=2)
    envs = walk_envs(1)
    done = []
    plain_step = envs.step
    envs.step = lambda actions: done.append(float(actions[0, 0])) or plain_step(actions)
    round_ = hg_dagger.drive(args, envs, GatedNovice({}), None, person, 40)
    return *round_, done


def test_a_person_acts_while_driving_and_the_corrections_are_the_labels(endless):
    person = Person()
    states, labels, take_overs, share, done = human_drive(person)
    assert done == [-1, -1, 5] * 8
    assert person.num_episodes == 2
    assert states.tolist() == [[7, 7, 7]] * 2
    assert labels.tolist() == [[5]] * 2
    assert len(take_overs) == 8
    assert share == pytest.approx(1 / 3)


def test_a_round_ends_where_the_person_ends_it(endless):
    *_, done = human_drive(Person(ends_after=5))
    assert len(done) == 5


# --- Everything together ---


@pytest.mark.parametrize("script", DAGGERS)
def test_the_loop_from_demonstrations_to_labels(script, monkeypatch, tmp_path):
    """The labels of the rounds are the expert's on the novice's states."""
    module, args = args_for(script, num_demos=2, num_rounds=2, num_updates=60, hidden_dim=8)
    args.run_dir = str(tmp_path)
    monkeypatch.setattr(module, "exit_on_interrupt", lambda message: None)
    monkeypatch.setattr(module, "load_expert", lambda *_: by_seed)
    module.main(args)
    (directory,) = tmp_path.iterdir()
    _, state = module.read_saved("", directory / "state.safetensors")
    np.testing.assert_array_equal(state["actions"], by_seed(state["obs"].numpy()))
    seeds = set(state["obs"][:, 0].int().tolist())
    rounds = {*range(1000, 1004), *range(2000, 2004)}
    assert seeds >= {0, 1}
    assert seeds <= {0, 1, *rounds}
    if script == "dagger":
        assert seeds == {0, 1, *rounds}
