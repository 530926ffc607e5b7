"""Recorded demonstrations in place of an expert: `--dataset` takes the id of a local Minari data set."""

import numpy as np


class Dataset:
    """The episodes of a Minari data set, handed out in order and each only once.

    `return_mean` is the mean return of all its episodes. Raises ValueError where it is not there, or has other
    observations or actions than this environment.
    """

    def __init__(self, dataset_id, env_id, envs):
        try:
            import minari

            self.data = minari.load_dataset(dataset_id)
        except ImportError as error:
            raise ValueError("--dataset needs Minari: pip install 'minari[hdf5]'.") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"--dataset {dataset_id} cannot be read: {str(error).splitlines()[0]}") from error
        for kind, space in (("observation", envs.single_observation_space), ("action", envs.single_action_space)):
            recorded = getattr(self.data, f"{kind}_space")
            a, b = ((type(x), x.shape, getattr(x, "n", None)) for x in (recorded, space))
            if a != b:
                raise ValueError(f"--dataset {dataset_id} has {kind}s {recorded}, but {env_id} has {space}.")
        self.id, self.next, self.random_return = dataset_id, 0, None
        self.return_mean = float(np.mean([episode.rewards.sum() for episode in self.data.iterate_episodes()]))

    def replay(self, num_episodes):
        """The steps of the next episodes, as `experts.rollout` yields them, in one environment."""
        first, self.next = self.next, self.next + num_episodes
        if self.next > self.data.total_episodes:
            raise ValueError(
                f"--dataset {self.id} has {self.data.total_episodes} episodes, and at least {self.next} are asked for, "
                "those that are held out included; lower --num-demos."
            )
        return self.steps(self.data.episode_indices[first : self.next])

    def steps(self, indices):
        for number, episode in enumerate(self.data.iterate_episodes(indices)):
            for t in range(len(episode)):
                obs, actions, rewards = (x[t : t + 1] for x in (episode.observations, episode.actions, episode.rewards))
                terminated, done = episode.terminations[t : t + 1], np.array([t == len(episode) - 1])
                yield np.array([number]), obs, actions, rewards, done, {"terminated": terminated}
