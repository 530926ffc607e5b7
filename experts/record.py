"""Write an expert's demonstrations as a Minari data set, for `--dataset` or for other code.

    pip install 'minari[hdf5]'
    python -m experts.record --env-id Hopper-v4 --episodes 20 --dataset-id hopper/expert-v0

With `--noise` the expert acts in noise, as in dart.py, and its actions are recorded as it meant
them: demonstrations for any of the scripts. With `--run` it is the episodes that a person drove in
a run of `hg_dagger.py --gate human`; give its --env-id and --max-episode-steps again. Their infos
hold `by_person` (T + 1,): entry t + 1 says whether the person chose action t, or the novice did.

    python -m experts.record --run runs/LaneChangeDisturbed-v0__hg_dagger__0__1795713267 \\
        --env-id LaneChangeDisturbed-v0 --dataset-id me-v0

Minari keeps it in the directory that the variable MINARI_DATASETS_PATH names, otherwise in
~/.minari/datasets.
"""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from safetensors.numpy import load_file

from dart import disturb
from experts import load_expert


@dataclass
class Args:
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    dataset_id: str = "hopper/expert-v0"  # [namespace/]name-v<number>
    episodes: int = 20  # whole episodes to record
    seed: int = 0  # of the first episode and of the expert
    max_episode_steps: int | None = None  # None: the environment's own limit
    expert: str | None = None  # your own expert, as module:callable
    noise: float = 0.0  # on the expert's actions: deviation, as a share of half of their range
    run: str | None = None  # in place of an expert: a run of hg_dagger.py with --gate human


def play(args, env):
    """Episodes of the expert, as dictionaries of arrays like those of a person's run."""
    expert = load_expert(args.env_id, args.expert, args.seed)
    rng = np.random.default_rng(args.seed + 800_000)
    episodes = []
    for k in range(args.episodes):
        obs = [env.reset(seed=args.seed + k)[0].copy()]
        steps = []
        done = False
        while not done:
            # Copies, in case an expert reuses its arrays or an environment changes its action.
            action = np.array(expert(obs[-1][None].copy()))[0]
            action = action.astype(env.action_space.dtype, casting="same_kind")
            executed = disturb(action, env.action_space, args.noise, rng) if args.noise else action
            next_obs, reward, terminated, truncated, _ = env.step(executed.copy())
            obs.append(next_obs.copy())
            steps.append((action, reward, terminated))
            done = terminated or truncated
        actions, rewards, terminated = map(np.array, zip(*steps, strict=True))
        episode = {"actions": actions, "rewards": rewards, "terminated": terminated}
        episodes.append(episode | {"obs": np.array(obs)})
    return episodes


def read(run):
    """Episodes of all rounds of a run in which a person drove, in the order they were played in."""

    def numbers(path):
        return int(path.parent.name.removeprefix("episodes_")), int(path.stem)

    paths = Path(run).glob("episodes_*/*.safetensors")
    return [load_file(path) for path in sorted(paths, key=numbers)]


def main(args):
    import minari  # pip install 'minari[hdf5]'

    warnings.filterwarnings("ignore", module="minari")  # it misses an author and a link to code
    torch.set_num_threads(1)  # as in the scripts
    env = gym.make(args.env_id, max_episode_steps=args.max_episode_steps)
    if env.spec.max_episode_steps is None:
        raise gym.error.Error(f"{args.env_id} has no time limit; give --max-episode-steps")
    is_box = isinstance(env.action_space, gym.spaces.Box)
    if args.noise and not (is_box and env.action_space.is_bounded()):
        raise gym.error.Error(f"{args.env_id} has no action range to take a share of for the noise")
    episodes = read(args.run) if args.run else play(args, env)
    if not episodes:
        raise gym.error.Error("there are no episodes to record")

    buffers = []
    for episode in episodes:
        # Minari writes whatever it is given, also for another environment.
        if episode["obs"].shape[1:] != env.observation_space.shape:
            raise gym.error.Error(f"the observations are not those of {args.env_id}")
        for action in episode["actions"]:
            if action not in env.action_space:
                raise gym.error.Error(f"the action {action} is not in {env.action_space}")
        ends_early = np.zeros_like(episode["terminated"])
        ends_early[-1] = not episode["terminated"][-1]  # at the limit, or where the person ended it
        infos = None
        if "by_person" in episode:
            infos = {"by_person": np.concatenate([[False], episode["by_person"]])}
        buffer = minari.data_collector.EpisodeBuffer(
            observations=episode["obs"],
            actions=episode["actions"],
            rewards=episode["rewards"],
            terminations=episode["terminated"],
            truncations=ends_early,
            infos=infos,
        )
        buffers.append(buffer)
    name = "a person and hg_dagger.py" if args.run else "expert"
    create = minari.create_dataset_from_buffers
    dataset = create(args.dataset_id, buffers, env=env, algorithm_name=name)
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps:,} steps")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except gym.error.Error as error:
        sys.exit(f"error: {error}")
