"""HG-DAgger: the novice acts, a person takes over when it errs, and only that becomes new labels.

    D <- the expert's own episodes,  pi_1 <- train(D)
    for i = 1, 2, ...:
        act by the expert where the gate g(s) = 1, else by the novice pi_i              (1)
        D <- D + {(s, pi*(s)) for every s with g(s) = 1},  pi_(i+1) <- train(D)         (2)
    doubt(s) = ||diag Cov(pi^1(s), ..., pi^E(s))||_2                                    (3)
    tau = mean of the last quarter of the doubts at which the expert took over          (4)

Kelly, Sidrane, Driggs-Campbell & Kochenderfer, "HG-DAgger: Interactive Imitation Learning with
Human Experts", 2019 (https://arxiv.org/abs/1810.02890). The novice is the mean of E networks that
differ in their initial weights. Doubt measures risk, with tau as its threshold; neither decides
anything during training.

The gate is a person (--gate human: hold a key to take over), or a rule in the person's place, which
knows the expert: it takes over where a running mean of the disagreement between expert and novice
exceeds a threshold, and hands back where it has fallen to half of that. So g depends on the steps
before s, too. All labels of a person are kept, whatever --label-every says.

Differences from the paper:
- The simulated gate, and --label-every, which keeps the labels of every n-th step only.
- pi_(i+1) starts from the weights of pi_i, with the statistics of the new D and a fresh optimiser.
- Box action spaces are learned with squared loss, Discrete ones with cross-entropy. The covariance
  in (3) is that of standardised actions, or of probabilities.
- With --gate human the demonstrations are those of an expert (--expert), or of --dataset.

`--resume RUN` continues a run that was stopped.

    python hg_dagger.py --env-id Hopper-v4 --num-demos 1 --label-every 10  # 3700 ± 39 over 3 seeds
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections import Counter, namedtuple
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert
from experts.human import HumanExpert


@dataclass
class Args:
    # --- Task and demonstrations ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    num_envs: int = 25  # environments stepped side by side
    max_episode_steps: int | None = None  # None: the environment's own limit
    num_demos: int = 10  # expert episodes before the first round
    expert: str | None = None  # your own expert, as module:callable
    dataset: str | None = None  # a local Minari data set, in place of an expert's episodes
    # --- Training ---
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_updates: int = 20_000  # gradient steps in all, shared equally among the rounds
    batch_size: int = 256  # transitions in a gradient step
    learning_rate: float = 1e-3  # at its peak, after a linear warm-up; then cosine to 0
    hidden_dim: int = 256  # width of the hidden layers
    device: Literal["cpu", "cuda"] = "cpu"  # cuda is faster for much larger networks only
    # --- Evaluation and output ---
    eval_episodes: int = 50  # episodes of the final evaluation
    capture_video: bool = False  # record three episodes of the final policy
    checkpoint: str | None = None  # evaluate this policy.safetensors; do not train
    resume: str | None = None  # continue the run in this directory
    run_dir: str = "runs"  # each run makes its own directory in here
    # --- HG-DAgger ---
    num_rounds: int = 10  # rounds after the demonstrations; 0 is behaviour cloning
    episodes_per_round: int = 4  # in each round
    label_every: int = 1  # keep the labels of every n-th step only, in the demonstrations too
    demo_env_id: str | None = None  # environment of the demonstrations, if it is another
    ensemble_size: int = 5  # E, the networks whose mean acts
    gate: Literal["simulated", "human"] = "simulated"  # human: you, at the keyboard
    gate_threshold: float = 0.12  # disagreement at which the simulated expert takes over
    gate_steps: int = 5  # time constant of the running mean of the disagreement, in steps

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        sizes = ["num_envs", "num_demos", "num_updates", "batch_size", "hidden_dim"]
        for name in [
            *sizes,
            "episodes_per_round",
            "label_every",
            "ensemble_size",
            "gate_steps",
            "eval_episodes",
        ]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError("max_episode_steps must be at least 1")
        if self.seed < 0:
            raise ValueError("seed must be at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError("learning_rate must be above 0")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda: PyTorch finds none; use cpu")
        if not 0 <= self.num_rounds < self.num_updates:
            raise ValueError("num_rounds must be at least 0, and less than num_updates")
        if self.checkpoint and self.resume:
            raise ValueError("give either checkpoint or resume")
        if not 0 < self.gate_threshold < math.inf:
            raise ValueError("gate_threshold must be above 0")


class Policy(nn.Module):
    """The novice: E networks; their mean acts, and their variance is the doubt."""

    def __init__(self, obs_space, action_space, hidden_dim=256, ensemble_size=5):
        super().__init__()
        obs_dim = obs_space.shape[0]
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        num_outputs = int(action_space.n) if self.discrete else action_space.shape[0]
        self.nets = nn.ModuleList()
        for _ in range(ensemble_size):
            net = nn.Sequential(
                nn.Linear(obs_dim, hidden_dim),
                nn.GELU(),
                nn.Linear(hidden_dim, hidden_dim),
                nn.GELU(),
                nn.Linear(hidden_dim, num_outputs),
            )
            self.nets.append(net)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        if self.discrete:
            self.start = int(action_space.start)  # categories are start, start + 1, ...
        else:
            self.register_buffer("action_mean", torch.zeros(num_outputs))
            self.register_buffer("action_std", torch.ones(num_outputs))
            self.register_buffer("action_low", torch.tensor(action_space.low))
            self.register_buffer("action_high", torch.tensor(action_space.high))

    def set_statistics(self, obs, actions):
        self.obs_mean, self.obs_std = mean_and_std(obs)
        if not self.discrete:
            self.action_mean, self.action_std = mean_and_std(actions)

    def forward(self, obs):
        """Standardised actions (E, B, act_dim), or logits (E, B, n), of all networks."""
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        return torch.stack([net(obs) for net in self.nets])

    def loss(self, obs, actions):
        if self.discrete:
            labels = (actions - self.start).repeat(len(self.nets))
            return F.cross_entropy(self(obs).flatten(0, 1), labels)
        target = (actions - self.action_mean) / self.action_std
        return (self(obs) - target).square().sum(-1).mean()

    @torch.inference_mode()
    def act_and_doubt(self, obs):
        """obs (N, obs_dim) to actions (N, act_dim) or (N,), and doubts (N,), all numpy."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        if self.discrete:
            out = self(obs).softmax(-1)
            actions = self.start + out.mean(0).argmax(-1)
        else:
            out = self(obs)
            actions = self.action_mean + self.action_std * out.mean(0)
            actions = actions.clamp(self.action_low, self.action_high)
        doubt = out.var(0, correction=0).norm(dim=-1)  # (3)
        return actions.cpu().numpy(), doubt.cpu().numpy()

    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, act_dim) or (N,)."""
        actions, _ = self.act_and_doubt(obs)
        return actions

    def distance(self, actions, others):
        """Root mean square over dimensions (N,), in standard deviations; 0 or 1 for categories."""
        if self.discrete:
            return (actions != others).astype(float)
        z = (actions - others) / self.action_std.cpu().numpy()
        return np.sqrt(np.square(z).mean(-1))


def drive(args, envs, policy, expert, human, seed):
    """One round: states (T, obs_dim) and labels of the expert's control, and what to report."""
    rng = np.random.default_rng(seed)
    states = []
    labels = []
    take_overs = []
    controlled = []
    for episode in range(0, args.episodes_per_round, envs.num_envs):
        if human and human.round_over:
            break
        obs, _ = envs.reset(seed=seed + episode)
        if human:
            human.begin_episode()
        running = episode + np.arange(envs.num_envs) < args.episodes_per_round
        gate = np.zeros(envs.num_envs, dtype=bool)  # g(s): the expert is in control
        disagreement = np.zeros(envs.num_envs)  # its exponential running mean
        # Counted from a random number on, or of a short episode only the start would be labelled.
        step = rng.integers(args.label_every, size=envs.num_envs)
        while running.any() and not (human and human.round_over):
            proposals, doubt = policy.act_and_doubt(obs)
            previous_gate = gate
            if human:
                corrections, gate = human(obs, proposals)
            else:
                corrections = np.array(expert(obs.copy()))
                if corrections.shape != proposals.shape:
                    fail(f"labels of shape {proposals.shape} are needed, not {corrections.shape}")
                # An expert in control stays until the disagreement has fallen to half.
                distance = policy.distance(corrections, proposals)
                disagreement += (distance - disagreement) / args.gate_steps
                threshold = np.where(gate, args.gate_threshold / 2, args.gate_threshold)
                gate = disagreement > threshold

            actions = proposals.copy()
            actions[gate] = corrections[gate]  # (1)
            is_labelled = running & gate & (step % args.label_every == 0)
            states.append(obs[is_labelled])
            labels.append(corrections[is_labelled])  # pi*(s) of (2)
            takes_over = gate & ~previous_gate
            take_overs += doubt[running & takes_over].tolist()
            controlled += gate[running].tolist()

            obs, _, terminated, truncated, _ = envs.step(actions)
            running = running & ~(terminated | truncated)
            step += 1
    if human:  # also what a run that was stopped in this round had recorded
        states, labels = human.end_round()
    else:
        states = np.concatenate(states)
        labels = np.concatenate(labels)
    expert_share = np.mean(controlled) if controlled else 0.0
    return states, labels, take_overs, expert_share


def hg_dagger(args, policy, obs, actions, envs, round_envs, human, run, writer, metadata):
    """The rounds that remain; obs and actions are D. Round 0 only trains on the demonstrations.

    A round depends on its seed, the weights and D alone, so that --resume repeats it exactly.
    """
    num_updates = args.num_updates // (args.num_rounds + 1)
    remaining = range(len(metadata["rounds"]), args.num_rounds + 1)
    progress = tqdm(total=num_updates * len(remaining), unit=" updates", disable=None)
    for number in remaining:
        seed = 1_000_000 * args.seed + 1_000 * number
        torch.manual_seed(seed)
        take_overs = []
        expert_share = 1.0
        if number > 0:
            expert = None if human else get_expert(args, seed)
            if human:
                human.begin_round(run, number, args, metadata)
            states, labels, take_overs, expert_share = drive(
                args, round_envs, policy, expert, human, seed
            )
            check_data(envs, states, labels, f"round {number}")
            states, labels = label_tensors(states, labels, args.device)
            obs = torch.cat([obs, states])
            actions = torch.cat([actions, labels])  # (2)

        metadata["doubts"] += take_overs
        last_quarter = metadata["doubts"][-math.ceil(len(metadata["doubts"]) / 4) :]
        metadata["tau"] = float(np.mean(last_quarter)) if last_quarter else 0.0  # (4)
        begin = time.time()
        loss = train(args, policy, obs, actions, num_updates, progress, human)
        if not math.isfinite(loss):
            fail(f"the loss is {loss} after round {number}; lower --learning-rate")
        metadata["train_seconds"] += time.time() - begin
        watched = human.watch(policy) if human else policy  # so that the window stays alive
        return_mean = evaluate(args, envs, watched, envs.num_envs)["return_mean"]
        summary = {
            "expert_labels": len(obs),
            "expert_share": float(expert_share),
            "take_overs": len(take_overs),
            "tau": metadata["tau"],
            "loss": loss,
            "return_mean": return_mean,
        }
        metadata["rounds"].append(summary)
        metadata["num_transitions"] = len(obs)
        metadata["expert_labels"] = len(obs)
        save(policy, run, metadata, obs, actions)
        for name, value in summary.items():
            writer.add_scalar(f"round/{name}", value, len(obs))
        postfix = {"round": number, "labels": len(obs), "last_return": f"{return_mean:.2f}"}
        progress.set_postfix(postfix)
        if human and human.closed:
            break
    if human:
        human.close()
    progress.close()


def train(args, policy, obs, actions, num_updates, progress, human=None):
    """Gradient steps on all labels so far, with a fresh optimiser; returns the last loss."""
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for update in range(1, num_updates + 1):
        fraction = update / num_updates
        cosine = 0.5 * (1 + math.cos(math.pi * fraction))
        warm_up = 20 * fraction  # over the first 5%
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(warm_up, cosine)
        batch = torch.randint(len(obs), (args.batch_size,), device=args.device)
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.update()
        if human:
            human.show_training(update / num_updates, len(obs))
    return loss.item()


def mean_and_std(x):
    """For standardising x (T, dim); a dimension that is constant is only centred."""
    x = x.double()
    std = x.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return x.mean(0).float(), std.float()


def fail(message):
    """End with a message on standard error and exit status 2, which stands for wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def make_envs(args, num_envs, **kwargs):
    """Environments stepped side by side, with flat observations and actions."""
    name = f"--env-id {args.env_id}"
    limit = args.max_episode_steps
    try:
        envs = gym.make_vec(args.env_id, num_envs, "sync", max_episode_steps=limit, **kwargs)
    except (gym.error.Error, ImportError) as error:
        fail(f"{name} cannot be made: {error}")
    obs_space = envs.single_observation_space
    action_space = envs.single_action_space
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 1:
        fail(f"{name} has observations {obs_space}; a flat Box is needed")
    is_flat_box = isinstance(action_space, gym.spaces.Box) and len(action_space.shape) == 1
    if not is_flat_box and not isinstance(action_space, gym.spaces.Discrete):
        fail(f"{name} has actions {action_space}; a flat Box or Discrete is needed")
    if envs.envs[0].spec.max_episode_steps is None:
        fail(f"{name} does not limit its episodes; give --max-episode-steps")
    return envs


Episode = namedtuple("Episode", "obs actions rewards info")


def rollout(envs, act, num_episodes, seed, title=None):
    """Play whole episodes; number k starts from the seed `seed + k`."""
    episodes = []
    progress = tqdm(desc=title, unit=" steps", leave=False, disable=None)
    while len(episodes) < num_episodes:
        obs, _ = envs.reset(seed=seed + len(episodes))  # environment i gets this seed + i
        running = np.ones(envs.num_envs, dtype=bool)
        last_infos = [{} for _ in range(envs.num_envs)]
        steps = []

        # An environment that is done starts over, unrecorded, until the whole batch is done.
        while running.any():
            actions = np.array(act(obs.copy()))  # copies, in case an expert reuses its arrays
            if actions.shape != envs.action_space.shape:
                fail(f"actions of shape {envs.action_space.shape} are needed, not {actions.shape}")
            next_obs, rewards, terminated, truncated, infos = envs.step(actions)
            steps.append((obs, actions, rewards, running))
            progress.update(int(running.sum()))
            done = running & (terminated | truncated)
            for i in np.flatnonzero(done):
                for key in ("is_success", "mode"):
                    if isinstance(infos.get(key), np.ndarray) and infos[f"_{key}"][i]:
                        last_infos[i][key] = infos[key][i]
            running = running & ~done
            obs = next_obs

        obs, actions, rewards, recorded = (np.stack(column) for column in zip(*steps, strict=True))
        for i in range(envs.num_envs):
            mask = recorded[:, i]  # the steps of this environment's first episode
            columns = obs[mask, i], actions[mask, i], rewards[mask, i]
            episodes.append(Episode(*columns, last_infos[i]))
    progress.close()
    return episodes[:num_episodes]


def read_dataset(args, num_episodes):
    """The first episodes of a local Minari data set."""
    try:
        import minari

        dataset = minari.load_dataset(args.dataset)
    except ImportError:
        fail("--dataset needs Minari: pip install 'minari[hdf5]'")
    except (OSError, ValueError) as error:
        fail(f"--dataset {args.dataset} cannot be read: {error}")
    if dataset.total_episodes < num_episodes:
        fail(
            f"--dataset {args.dataset} has {dataset.total_episodes} episodes, and {num_episodes} "
            "are needed; lower --num-demos"
        )
    episodes = dataset.iterate_episodes(dataset.episode_indices[:num_episodes])
    return [Episode(e.observations[:-1], e.actions, e.rewards, {}) for e in episodes]


def get_expert(args, seed):
    try:
        return load_expert(args.env_id, args.expert, seed)
    except gym.error.Error as error:
        fail(error)


def collect_demonstrations(args, envs):
    """Whole episodes of the expert, or of a data set in its place."""
    demo_args = replace(args, env_id=args.demo_env_id or args.env_id)
    demo_envs = make_envs(demo_args, min(args.num_envs, args.num_demos))
    for name in ("single_observation_space", "single_action_space"):
        if getattr(demo_envs, name) != getattr(envs, name):
            fail(f"--demo-env-id {args.demo_env_id} has another {name}")
    if args.dataset:
        episodes = read_dataset(args, args.num_demos)
    else:
        expert = get_expert(demo_args, args.seed)
        seed = 1_000_000 * args.seed
        episodes = rollout(demo_envs, expert, args.num_demos, seed, "demonstrations")
    for number, episode in enumerate(episodes):
        check_data(envs, episode.obs, episode.actions, f"demonstration {number}")
    return episodes


def make_round_envs(args):
    """Where the rounds are played; and the person at the keyboard, if there is one."""
    if args.gate == "simulated":
        if args.num_rounds > 0:
            get_expert(args, args.seed)  # refused now, not after the first training
        return make_envs(args, min(args.num_envs, args.episodes_per_round)), None
    envs = make_envs(args, 1, render_mode="rgb_array")
    try:
        return envs, HumanExpert(envs, args.env_id)
    except gym.error.Error as error:
        fail(error)


def check_data(envs, obs, actions, source):
    """Refuse observations and actions from which nothing can be learned."""
    obs_dim = envs.single_observation_space.shape[0]
    if obs.shape[1:] != (obs_dim,) or not np.isfinite(obs).all():
        fail(f"{source} has observations that are not {obs_dim} finite numbers")
    action_space = envs.single_action_space
    if not all(action in action_space for action in actions.astype(action_space.dtype)):
        fail(f"{source} has actions that are not in {action_space}")


def to_tensors(args, episodes):
    """Observations (T, obs_dim) and actions (T, act_dim), or (T,), of every n-th step."""
    rng = np.random.default_rng(args.seed)
    obs = []
    actions = []
    for episode in episodes:
        # From a random step on: episodes begin alike, and the same steps of all would leave gaps.
        start = rng.integers(min(args.label_every, len(episode.obs)))
        obs.append(episode.obs[start :: args.label_every])
        actions.append(episode.actions[start :: args.label_every])
    return label_tensors(np.concatenate(obs), np.concatenate(actions), args.device)


def label_tensors(obs, actions, device):
    dtype = torch.int64 if actions.ndim == 1 else torch.float32
    obs = torch.tensor(obs, dtype=torch.float32, device=device)
    return obs, torch.tensor(actions, dtype=dtype, device=device)


def evaluate(args, envs, policy, num_episodes):
    """Returns; and the success rate and the modes of successes, if the environment reports them."""
    # The seeds of the demonstrations begin at 1_000_000 * args.seed, so these episodes are new.
    seed = 1_000_000 * args.seed + 500_000
    episodes = rollout(envs, policy.act, num_episodes, seed, "evaluation")
    returns = [float(episode.rewards.sum()) for episode in episodes]
    results = {
        "eval_returns": returns,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
    }
    infos = [episode.info for episode in episodes]
    if any("is_success" in info for info in infos):
        successes = [info for info in infos if np.all(info.get("is_success", False))]
        results["success_rate"] = len(successes) / num_episodes
        results["modes"] = Counter(str(info["mode"]) for info in successes if "mode" in info)
    return results


def describe(args, demos):
    """What results.json and the saved policy say of the training; the rounds add to it."""
    return {
        "algorithm": Path(__file__).stem,
        "args": asdict(args),
        "num_transitions": 0,
        "expert_labels": 0,
        "expert_return": float(np.mean([demo.rewards.sum() for demo in demos])),
        "train_seconds": 0.0,
        "rounds": [],
        "doubts": [],  # at take-overs
        "tau": 0.0,
    }


def save(policy, run, metadata, obs, actions):
    """Write the policy, and the state from which --resume continues, each beside and renamed."""
    header = {"metadata": json.dumps(metadata)}
    weights = policy.state_dict()
    save_file(weights, run / "policy.tmp", header)
    (run / "policy.tmp").replace(run / "policy.safetensors")
    save_file(weights | {"obs": obs, "actions": actions}, run / "state.tmp", header)
    (run / "state.tmp").replace(run / "state.safetensors")


def read_saved(flag, path):
    """Metadata and tensors of a saved policy or state; reading a safetensors file runs no code."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata["args"] |= {"checkpoint": None, "resume": None}
        metadata["args"]["device"] = "cpu"  # unless asked for: this machine may be another
        Args(**metadata["args"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        fail(f"{flag} {path} was not saved by this script: {error}")
    return metadata, tensors


def load_weights(policy, weights, source):
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        fail(f"{source} does not fit: {str(error).splitlines()[-1].strip()}")
    if any(tensor.isnan().any() for tensor in weights.values()):
        fail(f"{source} has weights that are not numbers")


def load_state(args, policy, envs, run):
    """Metadata and D of a run that was stopped; the policy gets its weights."""
    metadata, state = read_saved("--resume", run / "state.safetensors")
    if not {"obs", "actions"} <= state.keys():
        fail(f"--resume {run} has no labels")
    metadata["args"] = asdict(args)
    obs = state.pop("obs")
    actions = state.pop("actions")
    load_weights(policy, state, f"--resume {run}")
    check_data(envs, obs.numpy(), actions.numpy(), f"--resume {run}")
    return metadata, obs.to(args.device), actions.to(args.device)


def parse_args(command_line=None):
    """The arguments; those of the checkpoint or of the run to resume are the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint")
    parser.add_argument("--resume")
    saved, _ = parser.parse_known_args(command_line)
    default = Args()
    if saved.checkpoint:
        metadata, _ = read_saved("--checkpoint", saved.checkpoint)
        default = Args(**metadata["args"])
    elif saved.resume:
        metadata, _ = read_saved("--resume", Path(saved.resume) / "state.safetensors")
        default = Args(**metadata["args"])
    return tyro.cli(Args, args=command_line, default=default, description=__doc__)


def make_run_dir(args):
    """A new directory for what this run writes."""
    name = re.sub("[:/]", "-", f"{args.env_id}__{Path(__file__).stem}__{args.seed}")
    while True:
        run = Path(args.run_dir) / f"{name}__{int(time.time())}"
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:  # another run began in the same second
            time.sleep(1)
        except OSError as error:
            fail(f"--run-dir {args.run_dir} cannot be written: {error}")


def exit_on_interrupt(message):
    """From now on Ctrl-C and SIGTERM end the run with this message and exit status 130."""

    def stop(*_):
        print(message, file=sys.stderr)
        sys.exit(130)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def report(results, policy, run, seconds):
    """Write results.json, complete or not at all, and the line that ends the run."""
    results["num_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    packages = ("torch", "gymnasium", "mujoco", "numpy")
    results["versions"] = {name: version(name) for name in packages}
    results["total_seconds"] = seconds
    (run / "results.tmp").write_text(json.dumps(results, indent=2))
    (run / "results.tmp").replace(run / "results.json")

    score = f"return {results['return_mean']:.2f} ± {results['return_std']:.2f}"
    if "success_rate" in results:
        score += f", success {results['success_rate']:.1%}"
    score += f" (demonstrations {results['expert_return']:.2f})"
    score += f", {results['expert_labels']:,} labels"
    print(f"{results['algorithm']} on {results['env_id']}: {score}; {seconds:.0f} s; {run}")


def make_video_envs(args):
    """One environment that keeps its frames; MuJoCo's camera follows the robot."""
    kwargs = {"render_mode": "rgb_array_list"}
    spec = gym.spec(args.env_id.split(":")[-1])  # of module:Env-v0, the module is imported by now
    if "gymnasium.envs.mujoco" in str(spec.entry_point):
        kwargs["camera_name"] = "track"
    return make_envs(args, 1, **kwargs)


def check_rendering(args):
    """Try it before the training: on a machine without a screen it may not work."""
    envs = make_video_envs(args)
    try:
        envs.reset()  # renders the first frame
    except Exception as error:
        if not type(envs.envs[0].unwrapped).__module__.startswith("gymnasium"):
            raise  # the user's own code
        fail(f"--capture-video: {error}\nWithout a screen, MuJoCo needs MUJOCO_GL=egl.")
    envs.close()


def record_videos(args, policy, run):
    """Three episodes, from the first seeds of the evaluation, as run/videos/*.mp4."""
    from moviepy import ImageSequenceClip  # here, as it takes half a second

    envs = make_video_envs(args)
    frames_per_second = envs.metadata.get("render_fps", 30)
    (run / "videos").mkdir()
    for number in range(3):
        seed = 1_000_000 * args.seed + 500_000 + number
        rollout(envs, policy.act, 1, seed, "video")
        (frames,) = envs.render()  # all since the start of the episode
        clip = ImageSequenceClip(frames, fps=frames_per_second)
        clip.write_videofile(run / "videos" / f"episode-{number}.mp4", logger=None)
    envs.close()


def make_policy(args, envs):
    spaces = envs.single_observation_space, envs.single_action_space
    return Policy(*spaces, args.hidden_dim, args.ensemble_size).to(args.device)


def main(args):
    start = time.time()
    exit_on_interrupt("interrupted")
    torch.set_num_threads(1)  # for networks of this size, more threads are slower
    torch.manual_seed(args.seed)
    envs = make_envs(args, min(args.num_envs, args.eval_episodes))
    policy = make_policy(args, envs)
    if args.capture_video:
        check_rendering(args)
    if not args.checkpoint:
        round_envs, human = make_round_envs(args)

    if args.checkpoint:
        metadata, weights = read_saved("--checkpoint", args.checkpoint)
        load_weights(policy, weights, f"--checkpoint {args.checkpoint}")
        run = make_run_dir(args)
    elif args.resume:
        run = Path(args.resume)
        metadata, obs, actions = load_state(args, policy, envs, run)
    else:
        demos = collect_demonstrations(args, envs)
        obs, actions = to_tensors(args, demos)
        metadata = describe(args, demos)
        run = make_run_dir(args)
        save(policy, run, metadata, obs, actions)

    exit_on_interrupt(f"interrupted; continue with --resume {run}")
    writer = SummaryWriter(run)
    writer.add_text("args", json.dumps(asdict(args), indent=4))
    if not args.checkpoint:
        hg_dagger(args, policy, obs, actions, envs, round_envs, human, run, writer, metadata)

    results = metadata | {"env_id": args.env_id, "seed": args.seed, "args": asdict(args)}
    results |= evaluate(args, envs, policy, args.eval_episodes)
    writer.close()
    report(results, policy, run, time.time() - start)
    if args.capture_video:
        record_videos(args, policy, run)


if __name__ == "__main__":
    main(parse_args())
