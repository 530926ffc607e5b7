"""Experts: `load_expert(env_id)` returns a callable that maps observations (N, obs_dim) to actions (N, act_dim).

Importing this package registers the driving environments, `LaneChange-v0`, `LaneChangeDisturbed-v0` and `Slalom-v0`.
The weights are safetensors files; `experts/README.md` lists them with their returns.
"""

import importlib
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

from experts.dataset import Dataset
from experts.driving import DrivingExpert

WEIGHTS = Path(__file__).parent / "weights"
LIMITS = {}  # steps of an episode, by environment, where it sets no limit of its own
MEASURED = {}  # mean returns of users' experts and of random actions, by environment and name
DRIVING = {
    "LaneChange-v0": {"num_obstacles": 1},
    "LaneChangeDisturbed-v0": {"num_obstacles": 1, "disturbed": True},
    "Slalom-v0": {"num_obstacles": 3},
}

for env_id, kwargs in DRIVING.items():
    gym.register(env_id, "experts.driving:DrivingEnv", kwargs=kwargs)


def available():
    """The environment ids that have an expert, sorted."""
    return sorted([*DRIVING, *(path.stem for path in WEIGHTS.glob("*.safetensors"))])


def load_expert(env_id, expert=None, seed=0, dataset=None):
    """The expert for `env_id`, or the user's own where `expert` is "module:callable", or what a Minari `dataset` holds.

    Returns a callable: obs (N, obs_dim) -> actions (N, act_dim), or (N,) int64 for a Discrete action space. An expert
    that makes a choice per episode also has `reset(starts)`, with `starts` (N,) bool True where an episode begins. One
    of the user's that is random may have `seed(seed)`.
    `return_mean` and `random_return` are the mean returns of the expert and of random actions. A data set cannot be
    called; `rollout` replays it.

    Raises ValueError, with the mend, where there is no such expert or it answers with something that is no action.
    """
    if dataset is not None:
        policy = Dataset(dataset, env_id, make_envs(env_id, 1))
    elif expert is not None:
        policy = CustomExpert(expert, make_envs(env_id, 1).single_action_space)
    elif env_id in DRIVING:
        policy = DrivingExpert(seed)
    elif (WEIGHTS / f"{env_id}.safetensors").exists():
        policy = NeuralExpert(WEIGHTS / f"{env_id}.safetensors")
    else:
        raise ValueError(
            f"no expert for {env_id}; there are experts for {', '.join(available())}.\n"
            "Bring your own with --expert module:callable; callable(obs (N, obs_dim)) returns actions (N, act_dim)."
        )
    if policy.return_mean is None:
        if (env_id, expert) not in MEASURED:
            MEASURED[env_id, expert] = float(play(policy, env_id, 20, seed=30_000).mean())
        policy.return_mean = MEASURED[env_id, expert]
    if policy.random_return is None:
        if (env_id, "random") not in MEASURED:
            space = make_envs(env_id, 1).single_action_space
            space.seed(0)
            returns = play(lambda obs: np.stack([space.sample() for _ in obs]), env_id, 100, 10_000)
            MEASURED[env_id, "random"] = float(returns.mean())
        policy.random_return = MEASURED[env_id, "random"]
    if hasattr(getattr(policy, "function", None), "seed"):
        policy.function.seed(seed)
    return policy


class NeuralExpert:
    """A trained actor, read from a safetensors file and evaluated greedily, on the first entries of an observation.

    `metadata` holds the file's strings: environment, algorithm, steps, seed, versions, returns over 100 episodes.
    """

    def __init__(self, path):
        with safe_open(path, framework="pt") as file:
            self.metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.num_layers = sum(name.endswith(".weight") for name in self.tensors)
        self.squashed = self.metadata["algorithm"] == "TQC"  # as the library's off-policy actors are
        self.activation = torch.relu if self.squashed else torch.tanh
        self.return_mean = float(self.metadata.get("return_mean", "nan"))
        self.random_return = float(self.metadata.get("random_return", "nan"))

    @torch.no_grad()
    def __call__(self, obs):
        """obs (N, obs_dim) of any float dtype -> actions (N, act_dim) float32, or (N,) int64 where discrete."""
        t = self.tensors
        x = torch.as_tensor(np.asarray(obs)[:, : len(t["obs_mean"])], dtype=torch.float32)
        x = ((x - t["obs_mean"]) / t["obs_std"]).clamp(-t["obs_clip"], t["obs_clip"])
        for i in range(self.num_layers - 1):
            x = self.activation(F.linear(x, t[f"{i}.weight"], t[f"{i}.bias"]))
        x = F.linear(x, t[f"{self.num_layers - 1}.weight"], t[f"{self.num_layers - 1}.bias"])
        if self.squashed:
            return (t["action_low"] + (torch.tanh(x) + 1) / 2 * (t["action_high"] - t["action_low"])).numpy()
        if "action_low" in t:
            return x.clamp(t["action_low"], t["action_high"]).numpy()
        return x.argmax(-1).numpy()


class CustomExpert:
    """The user's `module:callable`, for a batch of observations or for one, checked on its first answer."""

    return_mean = random_return = None

    def __init__(self, name, action_space):
        module, _, attribute = name.partition(":")
        try:
            self.function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError, OSError) as error:
            raise ValueError(f"--expert {name} cannot be imported ({error}); give module:callable.") from error
        self.name, self.space, self.checked, self.one_by_one = name, action_space, False, False
        if hasattr(self.function, "reset"):
            self.reset = self.function.reset

    def __call__(self, obs):
        if not self.checked:
            self.one_by_one = not self.takes_a_batch(obs)
        actions = np.stack([self.function(o) for o in obs]) if self.one_by_one else np.asarray(self.function(obs))
        if not self.checked:
            self.check(actions, len(obs))
        return actions

    def takes_a_batch(self, obs):
        """Whether three observations get three actions, where one by one they would get one each."""
        shapes = []
        for batch, shape in ((np.stack([obs[0]] * 3), (3, *self.space.shape)), (obs[0], self.space.shape)):
            try:
                shapes.append(np.shape(self.function(batch)) == shape)
            except (ValueError, TypeError, IndexError, AssertionError, RuntimeError):
                shapes.append(False)
        return shapes[0] or not shapes[1]

    def check(self, actions, num_envs):
        expected = (num_envs, *self.space.shape)
        if actions.shape != expected:
            raise ValueError(
                f"--expert {self.name} returned shape {actions.shape} for {num_envs} observations, not {expected}."
            )
        if not np.isfinite(actions).all():
            raise ValueError(f"--expert {self.name} returned actions that are not finite.")
        low = self.space.low if isinstance(self.space, gym.spaces.Box) else 0
        high = self.space.high if isinstance(self.space, gym.spaces.Box) else getattr(self.space, "nvec", 0) - 1
        if isinstance(self.space, gym.spaces.Discrete):
            low, high = self.space.start, self.space.start + self.space.n - 1
        if not isinstance(self.space, gym.spaces.Box) and actions.dtype.kind not in "iu":
            raise ValueError(f"--expert {self.name} returned {actions.dtype}; categories are integers.")
        if (actions < low).any() or (actions > high).any():
            raise ValueError(f"--expert {self.name} returned actions outside {self.space}; clip them to its bounds.")
        self.checked = True


class Limit(gym.wrappers.TimeLimit):
    """Ends what might go on for ever, and says so the first time."""

    announced = set()

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self._elapsed_steps == self._max_episode_steps and not terminated and self.env.spec.id not in self.announced:
            self.announced.add(self.env.spec.id)
            message = f"{self.env.spec.id} sets no limit: an episode was stopped after {self._max_episode_steps} steps"
            print(f"{message} (--max-episode-steps)", file=sys.stderr)
        return obs, reward, terminated, truncated, info


def quiet(env_id):
    """Silence what is no news to who asked for `env_id`: its successor, and the old syntax of Gymnasium's models."""
    gym.logger.min_level = gym.logger.ERROR
    if "mujoco" in str(gym.registry.get(env_id)):
        import mujoco

        mujoco.set_mju_user_warning(lambda text: "deprecated" in text or print(f"MuJoCo: {text}", file=sys.stderr))


def make_envs(env_id, num_envs, limit=None, **kwargs):
    """Environments with flat observations, stepped side by side; raises ValueError where there are none of that id.

    One that is done waits for its reset, so that each episode has its own seed. Where the environment sets no limit on
    an episode's steps, `limit` holds, from now on; 1,000 if none was ever given.
    """
    LIMITS[env_id] = limit or LIMITS.get(env_id, 1_000)

    def limited(env):
        if env.spec.max_episode_steps and limit:
            raise ValueError(f"--max-episode-steps {limit}: {env_id} sets {env.spec.max_episode_steps} itself.")
        return env if env.spec.max_episode_steps else Limit(env, LIMITS[env_id])

    quiet(env_id)
    if "render_mode" in kwargs and "gymnasium.envs.mujoco" in str(gym.registry.get(env_id)):
        kwargs = {"camera_name": "track"} | kwargs  # Gymnasium's own stands still, and the walkers leave its picture
    try:
        vector, wrappers = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}, [limited, *kwargs.pop("wrappers", ())]
        envs = gym.make_vec(env_id, num_envs, "sync", vector, wrappers, **kwargs)
    except (gym.error.Error, ImportError, AttributeError, OSError, TypeError) as error:
        raise ValueError(f"--env-id {env_id} cannot be made: {error}") from error
    space = envs.single_observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"--env-id {env_id} has observations {space}; a flat Box is needed.")
    return envs


def rollout(envs, act, num_episodes, seed):
    """Play whole episodes, number k from the seed `seed + k`, and yield each step of the N environments.

    `act` maps obs (N, obs_dim) to actions; `act.reset`, if it has one, is told which of the N begin an episode, (N,)
    bool. A step is episode (N,), obs, actions, rewards (N,), done (N,), infos; `num_episodes` stands for any beyond.
    To the infos `terminated` (N,) is added. A data set in the place of `act` is replayed.
    """
    if isinstance(act, Dataset):
        yield from act.replay(num_episodes)
        return
    episode, done = np.arange(envs.num_envs), np.ones(envs.num_envs, bool)
    obs, _ = envs.reset(seed=(seed + episode).tolist())
    reset = getattr(act, "reset", None)
    while episode.min() < num_episodes:
        if reset and done.any():
            reset(done)
        actions = act(obs)
        before, (obs, rewards, terminated, truncated, infos) = obs, envs.step(actions)
        done = terminated | truncated
        yield np.minimum(episode, num_episodes), before, actions, rewards, done, infos | {"terminated": terminated}
        if done.any():
            episode = np.where(done, episode.max() + done.cumsum(), episode)
            obs, _ = envs.reset(seed=(seed + episode).tolist(), options={"reset_mask": done})


def play(policy, env_id, num_episodes, seed):
    """Returns (num_episodes,) of whole episodes, episode k from seed + k; `policy` maps (N, obs_dim) to actions."""
    envs, returns = make_envs(env_id, min(num_episodes, 20)), np.zeros(num_episodes + 1)
    for episode, _, _, rewards, _, _ in rollout(envs, policy, num_episodes, seed):
        returns[episode] += rewards
    envs.close()
    return returns[:-1]
