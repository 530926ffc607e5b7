"""Two experts of one task: when do their demonstrations have two modes?

    python -m benchmark.gaits              # how far they overlap, as overlap.json
    python -m benchmark.run --grid gaits   # what each script makes of them
    python bc_mse.py --env-id Reacher-v4 --num-envs 20 --num-demos 200 \\
        --expert benchmark.gaits:reacher

Reacher and Swimmer look the same in a mirror, so each shipped expert has a mirror image that does
as well: the arm bends the other way, the swimmer turns the other way. Half of the environments are
played by either. On the road the two are a driver who passes on the left and one on the right.

Two experts are two modes only where the state does not tell them apart and they act differently.
Both are in one number, the share of the actions' variance that the state leaves open,

    E[p (1 - p) ||a - a'||^2] / Var[a],

where a and a' are the actions of the two in a state, and p is the share of the second among the ten
states of the demonstrations nearest to it. It is the error that squared loss cannot avoid. How far
the states alone are alike is E[4 p (1 - p)], from 0 to 1. (Both are multiplied by 10 / 9, as p is
counted among ten.)
"""

import json

import numpy as np

import bc_mse
from benchmark.run import RESULTS
from experts import load_expert
from experts.driving import DrivingExpert

OVERLAP = RESULTS / "overlap.json"
NUM_NEIGHBOURS = 10
REACHER_OBS = np.array([1, 1, -1, -1, 1, -1, -1, -1, 1, -1, 1])  # y, and angles, change sign
SWIMMER_OBS = np.array([-1, -1, -1, 1, -1, -1, -1, -1])


class Mirrored:
    """An expert's mirror image: observations with these signs, and all actions negated."""

    def __init__(self, expert, obs_signs):
        self.expert = expert
        self.obs_signs = obs_signs

    def __call__(self, obs):
        return -self.expert(obs * self.obs_signs)


class InTurn:
    """The first expert in the environments 0, 2, 4, ..., the second in the others."""

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def __call__(self, obs):
        actions = self.first(obs)
        actions[1::2] = self.second(obs)[1::2]
        return actions


def mirrored_pair(env_id, obs_signs):
    expert = load_expert(env_id)
    return InTurn(expert, Mirrored(expert, obs_signs))


reacher = mirrored_pair("Reacher-v4", REACHER_OBS)
swimmer = mirrored_pair("Swimmer-v4", SWIMMER_OBS)
PAIRS = {  # with the number of episodes of each
    "Reacher-v4": (reacher.first, reacher.second, 100),
    "Swimmer-v4": (swimmer.first, swimmer.second, 10),
    "LaneChange-v0": (DrivingExpert(sides=[1.0]), DrivingExpert(sides=[-1.0]), 100),
    "LaneChange10Hz-v0": (DrivingExpert(sides=[1.0]), DrivingExpert(sides=[-1.0]), 100),
}


def steps_of(env_id, expert, num_episodes, seed):
    """States (T, obs_dim) and actions (T, act_dim) of whole episodes."""
    envs = bc_mse.make_envs(bc_mse.Args(env_id=env_id), min(25, num_episodes))
    episodes = bc_mse.rollout(envs, expert, num_episodes, seed)
    obs = np.concatenate([episode.obs for episode in episodes])
    return obs, np.concatenate([episode.actions for episode in episodes])


def share_of_second(queries, first, second):
    """Among the nearest of both sets of states: (N,), for N queries (N, obs_dim).

    Of states that are equally near, as where all episodes start alike, it takes any.
    """
    states = np.concatenate([first, second])
    scale = states.std(axis=0)
    scale[scale < 1e-6] = 1.0
    is_second = np.arange(len(states)) >= len(first)
    rng = np.random.default_rng(0)
    shares = []
    for query in queries:
        distances = np.square((states - query) / scale).sum(axis=1)
        nearest = np.lexsort((rng.random(len(states)), distances))[:NUM_NEIGHBOURS]
        shares.append(is_second[nearest].mean())
    return np.array(shares)


def alike_and_open(p, difference, actions):
    """How far the states are alike, and the share of the actions' variance that they leave open.

    For shares p (N,), differences of the experts' actions (N, act_dim) and demonstrated actions
    (T, act_dim).
    """
    spread = p * (1 - p) * NUM_NEIGHBOURS / (NUM_NEIGHBOURS - 1)
    between = spread * np.square(difference).sum(axis=1)
    return 4 * spread.mean(), between.mean() / actions.var(axis=0).sum()


def answers(expert, obs):
    """Its actions; two experts that draw noise draw the same."""
    if hasattr(expert, "seed"):
        expert.seed(0)
    return expert(obs)


def overlap(env_id, num_queries=2000):
    """`alike_and_open` of a pair of experts, on other episodes of both."""
    first, second, num_episodes = PAIRS[env_id]
    first_obs, first_actions = steps_of(env_id, first, num_episodes, 950_000_000)
    second_obs, second_actions = steps_of(env_id, second, num_episodes, 960_000_000)
    of_first, _ = steps_of(env_id, first, num_episodes, 970_000_000)
    of_second, _ = steps_of(env_id, second, num_episodes, 980_000_000)
    queries = np.concatenate([of_first, of_second])
    queries = np.random.default_rng(0).permutation(queries)[:num_queries]
    p = share_of_second(queries, first_obs, second_obs)
    difference = answers(first, queries) - answers(second, queries)
    return alike_and_open(p, difference, np.concatenate([first_actions, second_actions]))


def main():
    measured = {}
    for env_id in PAIRS:
        alike, left_open = overlap(env_id)
        print(f"{env_id}: states alike {alike:.3f}, variance left open {left_open:.4f}")
        measured[env_id] = {"states_alike": alike, "variance_left_open": left_open}
    OVERLAP.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
