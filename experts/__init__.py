"""Experts: `load_expert(env_id)` is a function from observations (N, obs_dim) to actions.

Importing this package registers the driving environments, `LaneChange-v0`, `LaneChange10Hz-v0`,
`LaneChangeDisturbed-v0` and `Slalom-v0`. The weights are safetensors files; `experts/README.md`
lists them with their returns.
"""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

from experts.driving import DrivingExpert

WEIGHTS = Path(__file__).parent / "weights"
DRIVING = {  # disturbed, the car acts twice a second: it can still settle on a side
    "LaneChange-v0": {"num_obstacles": 1},
    "LaneChangeDisturbed-v0": {"num_obstacles": 1, "disturbed": True, "decision_seconds": 0.5},
    "LaneChange10Hz-v0": {"num_obstacles": 1, "decision_seconds": 0.1},
    "Slalom-v0": {"num_obstacles": 3},
}

for env_id, kwargs in DRIVING.items():
    gym.register(env_id, "experts.driving:DrivingEnv", kwargs=kwargs, max_episode_steps=1000)

# Most experts are those of -v4 environments. Gymnasium announces at each start that there is a -v5,
# and MuJoCo that the -v4 models are written in an older syntax; neither calls for an action here.
warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
if importlib.util.find_spec("mujoco"):
    import mujoco

    def warn(text):
        if "deprecated" not in text:
            print(f"MuJoCo: {text}", file=sys.stderr)

    mujoco.set_mju_user_warning(warn)


def available():
    """The environment ids that have an expert, sorted."""
    return sorted([*DRIVING, *(path.stem for path in WEIGHTS.glob("*.safetensors"))])


def load_expert(env_id, expert=None, seed=0):
    """The expert for `env_id`, or your own function where `expert` is "module:callable".

    It maps observations (N, obs_dim) to actions (N, act_dim), or (N,) int64 in a Discrete action
    space. `seed` is for experts that draw random numbers; your own gets it through its
    `seed(seed)`, if it has one.

    Raises gymnasium.error.Error, with the remedy, where there is no such expert.
    """
    if expert is not None:
        return import_expert(expert, seed)
    if env_id in DRIVING:
        return DrivingExpert(seed)
    if (WEIGHTS / f"{env_id}.safetensors").exists():
        return NeuralExpert(WEIGHTS / f"{env_id}.safetensors")
    raise gym.error.Error(
        f"no expert for {env_id}; there are experts for {', '.join(available())}.\n"
        "Bring your own with --expert module:callable, a function from observations (N, obs_dim) "
        "to actions (N, act_dim)."
    )


def import_expert(name, seed):
    """The callable that "module:callable" names."""
    module_name, _, attribute = name.partition(":")
    if not attribute or not all(module_name.split(".")):
        raise gym.error.Error(f"--expert {name} does not have the form module:callable")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # What goes wrong inside the module, an import of its own included, keeps its traceback.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        message = f"--expert {name} cannot be imported ({error}); give module:callable"
        raise gym.error.Error(message) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise gym.error.Error(f"--expert {name} is no function; give module:callable")
    if hasattr(function, "seed"):
        function.seed(seed)
    return function


class NeuralExpert:
    """A trained actor, read from a safetensors file and evaluated greedily.

    It reads the first entries of an observation, as many as it was trained on. `metadata` holds the
    file's strings: environment, algorithm, steps, seed, versions, returns over 100 episodes.
    """

    def __init__(self, path):
        with safe_open(path, framework="pt") as file:
            self.metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.num_layers = sum(name.endswith(".weight") for name in self.tensors)
        self.squashed = self.metadata["algorithm"] == "TQC"
        self.activation = torch.relu if self.squashed else torch.tanh

    @torch.no_grad()
    def __call__(self, obs):
        """obs (N, obs_dim) -> actions (N, act_dim) float32, or (N,) int64 if they are discrete."""
        t = self.tensors
        x = torch.as_tensor(np.asarray(obs)[:, : len(t["obs_mean"])], dtype=torch.float32)
        x = ((x - t["obs_mean"]) / t["obs_std"]).clamp(-t["obs_clip"], t["obs_clip"])
        for i in range(self.num_layers - 1):
            x = self.activation(F.linear(x, t[f"{i}.weight"], t[f"{i}.bias"]))
        last = self.num_layers - 1
        x = F.linear(x, t[f"{last}.weight"], t[f"{last}.bias"])
        if "action_low" not in t:
            return x.argmax(-1).numpy()
        if self.squashed:
            return (
                t["action_low"] + (torch.tanh(x) + 1) / 2 * (t["action_high"] - t["action_low"])
            ).numpy()
        return x.clamp(t["action_low"], t["action_high"]).numpy()
