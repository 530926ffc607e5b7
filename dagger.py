"""DAgger: the expert labels the states that the policy visits, and the policy learns from all labels so far.

    D <- the expert's own episodes, pi_1 <- train(D)
    for i = 2, 3, ...: visit states with  beta_i pi* + (1 - beta_i) pi_(i-1),  chosen anew at each step    (1)
                       D <- D + {(s, pi*(s)) for every visited s},  pi_i <- train(D)                       (2)

Ross, Gordon & Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning",
2011. A policy that errs with probability eps on the expert's states can cost eps T^2 on its own, and more data of the
same kind do not mend it; labels on its own states bring that to the order of eps T. After the demonstrations, where
beta_1 = 1, beta_i is 0 (indicator), 0.5^(i-1), or falls linearly. Squared loss for Box action spaces, cross-entropy for
Discrete ones. pi_i starts from the weights of pi_(i-1) with a fresh optimiser, and the last policy is kept.
`--num-rounds 0` is behaviour cloning, `--resume RUN` goes on with a run that was stopped.
    python dagger.py --env-id Hopper-v4 --num-rounds 10 --num-demos 1 --label-every 10  # return 0.975, 2,428 labels
"""

import json
import math
import re
import signal
import sys
import time
import timeit
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert, make_envs, rollout


@dataclass
class Args:
    # --- Experiment ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_demos: int = 10  # expert episodes to learn from
    expert: str | None = None  # your own expert as module:callable, in place of the shipped one
    dataset: str | None = None  # a local Minari data set to learn from, in place of an expert's demonstrations
    num_updates: int = 20_000  # gradient steps, in equal parts after the demonstrations and after each round
    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 1e-3  # in each round the lesser of a warm-up over 500 updates and a cosine to zero
    hidden_dim: int = 256  # width of the hidden layers
    eval_episodes: int = 50  # episodes of the final evaluation
    num_envs: int = 20  # environments stepped side by side
    max_episode_steps: int | None = None  # limit where the environment sets none itself; 1,000 if not given
    device: str = "auto"  # auto, cpu or cuda
    num_threads: int = 1  # more are slower for networks of this size
    capture_video: bool = False  # record three episodes of the final policy
    run_dir: str = "runs"  # each run makes its own directory in here
    checkpoint: str | None = None  # evaluate this policy.safetensors, no training
    # --- DAgger ---
    num_rounds: int = 10  # after the demonstrations
    episodes_per_round: int = 4  # of visited states
    label_every: int = 1  # keep every n-th label only, in the demonstrations too
    demo_env_id: str | None = None  # where the demonstrations come from, if from elsewhere
    resume: str | None = None  # the directory of a stopped run, whose arguments hold
    beta_schedule: Literal["indicator", "exponential", "linear"] = "indicator"


def moments(x):
    """Mean and standard deviation (2, dim) of x (T, dim), for standardising; a constant dimension is only centred."""
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    return torch.stack([mean, torch.where(std > 1e-6, std, 1.0)])


class Policy(nn.Module):
    """pi(s); obs (B, obs_dim), actions (B, act_dim) in the environment's units, or categories (B, 1)."""

    def __init__(self, args, obs_space, action_space):
        super().__init__()
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        if not self.discrete and not isinstance(action_space, gym.spaces.Box):
            raise ValueError(f"a Box or Discrete action space is needed, not {action_space}.")
        if self.discrete:
            bounds, num_outputs = ([action_space.start], [action_space.start + action_space.n - 1]), action_space.n
        else:
            bounds, num_outputs = (action_space.low, action_space.high), action_space.shape[0]
        obs_dim, hidden, act_dim = obs_space.shape[0], args.hidden_dim, len(bounds[0])
        self.register_buffer("obs_moments", torch.tensor([[0.0], [1.0]]).repeat(1, obs_dim))
        self.register_buffer("action_moments", torch.tensor([[0.0], [1.0]]).repeat(1, act_dim))
        self.register_buffer("action_bounds", torch.as_tensor(np.stack(bounds), dtype=torch.float32))
        layers = nn.Linear(obs_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        self.net = nn.Sequential(*layers, nn.Linear(hidden, int(num_outputs)))

    def fit(self, obs, actions):
        """Take the statistics of the labels."""
        self.obs_moments.copy_(moments(obs))
        self.action_moments.copy_(moments(actions))

    def forward(self, obs):
        """The standardised action (B, act_dim), or the categories' logits."""
        mean, std = self.obs_moments
        return self.net(((obs - mean) / std).clamp(-10, 10))

    def loss(self, obs, actions):
        if self.discrete:
            return nn.functional.cross_entropy(self(obs), (actions - self.action_bounds[0]).squeeze(-1).long())
        mean, std = self.action_moments
        return (self(obs) - (actions - mean) / std).square().sum(-1).mean()

    @torch.no_grad()
    def act(self, obs):
        if self.discrete:
            return self.action_bounds[0] + self(obs).argmax(-1, keepdim=True)
        mean, std = self.action_moments
        return (mean + std * self(obs)).clamp(*self.action_bounds)


def fail(message, status=2):
    """End with the message on standard error, without a traceback; status 2 is for wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def visit(envs, expert, policy, beta, num_episodes, seed, label_every):
    """Visited states and the expert's labels on them, obs (T, obs_dim), actions (T, act_dim), and the returns.

    Each step of each environment is acted by the expert with probability beta and by the policy otherwise (1).
    """
    device, coin, labels = next(policy.parameters()).device, np.random.default_rng(seed), []

    def act(obs):
        labels.append(expert(obs))
        actions = policy.act(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        by_expert = (coin.random(len(obs)) < beta).reshape(-1, *[1] * (labels[-1].ndim - 1))
        return np.where(by_expert, labels[-1], actions.reshape(labels[-1].shape)).astype(envs.action_space.dtype)

    act.reset, returns, steps = getattr(expert, "reset", None), np.zeros(num_episodes + 1), []
    for episode, obs, actions, rewards, _, _ in rollout(envs, expert if beta == 1 else act, num_episodes, seed):
        returns[episode] += rewards
        steps.append((episode, obs, labels.pop() if labels else actions))
    episode, obs, labels = (np.concatenate(column) for column in zip(*steps, strict=True))
    order = np.argsort(episode, kind="stable")[: (episode < num_episodes).sum()][::label_every]
    obs, labels = (torch.as_tensor(x[order], dtype=torch.float32, device=device) for x in (obs, labels))
    return obs, labels.reshape(len(obs), -1), returns[:-1]


def evaluate(envs, policy, num_episodes, seed):
    """Returns of `num_episodes`, time per action and, where the last `info` reports them, successes and their modes."""

    def act(obs):
        obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
        return policy.act(obs).cpu().numpy().reshape(envs.action_space.shape).astype(envs.action_space.dtype)

    act.reset, device = getattr(policy, "reset", None), next(policy.parameters()).device
    returns, endings = np.zeros(num_episodes + 1), [{}] * (num_episodes + 1)
    with torch.random.fork_rng():  # sampling here leaves training as it is, and the other way round
        torch.manual_seed(seed)
        for episode, obs, _, rewards, done, infos in rollout(envs, act, num_episodes, seed):  # noqa: B007
            returns[episode] += rewards
            for i in np.flatnonzero(done):
                endings[episode[i]] = {k: infos[k][i] for k in ("is_success", "mode", "num_modes") if k in infos}
        microseconds = 1e6 * min(timeit.repeat(lambda: act(obs), number=10, repeat=10)) / (10 * len(obs))
    returns, endings = returns[:-1], endings[:-1]
    results = {"eval_returns": returns.tolist(), "return_mean": returns.mean(), "return_std": returns.std()}
    results["microseconds_per_action"] = microseconds  # in a batch of `num_envs`
    if any("is_success" in end for end in endings):
        results["success_rate"] = float(np.mean([bool(end.get("is_success")) for end in endings]))
    if "mode" in endings[0]:
        modes, counts = np.unique([end["mode"] for end in endings if end["is_success"]], return_counts=True)
        entropy = (counts / counts.sum() * np.log(counts.sum() / counts)).sum() / math.log(endings[0]["num_modes"])
        results |= {"mode_counts": dict(zip(modes.tolist(), counts.tolist(), strict=True)), "mode_entropy": entropy}
    return results


def train(policy, obs, actions, num_updates, args, progress):
    """Gradient steps on all labels so far; the loss of the last one."""
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for update in range(1, num_updates + 1):
        cosine = 0.5 * (1 + math.cos(math.pi * update / num_updates))
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(update / 500, cosine)
        batch = torch.randint(len(obs), (args.batch_size,), device=obs.device)
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.update()
    return loss.item()


def load(policy, path, expected):
    """Load a saved policy's weights and return its metadata, which must agree with `expected`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
            made_with = {name: metadata[name] for name in expected}
            if made_with != expected:
                fail(f"--checkpoint {path} was made with {made_with}, not {expected}.")
            policy.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        fail(f"--checkpoint {path} is not what this script saves with these arguments: {str(error).splitlines()[0]}")
    return metadata


def save(run, policy, obs, actions, metadata):
    """Write the policy, and the state from which `--resume` goes on, each whole or not at all."""
    for name, data in (("policy", {}), ("state", {"obs": obs, "actions": actions})):
        save_file(policy.state_dict() | data, run / "tmp", {"metadata": json.dumps(metadata)})
        (run / "tmp").replace(run / f"{name}.safetensors")


def restore(run):
    """Arguments, metadata, weights, observations and labels as the last finished round of `run` left them."""
    try:
        with safe_open(Path(run) / "state.safetensors", framework="pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        return Args(**metadata["args"]), metadata, weights, weights.pop("obs"), weights.pop("actions")
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        fail(f"--resume {run} is not a run that can go on: {str(error).splitlines()[0]}")


def main(args):
    start, algorithm, resume = time.time(), Path(__file__).stem, args.resume
    if resume:
        args, metadata, weights, obs, actions = restore(resume)
    for name, value in asdict(args).items():
        if type(value) is int and value < (lowest := int(name not in ("seed", "num_rounds"))):
            fail(f"--{name.replace('_', '-')} must be at least {lowest}, not {value}.")
    if args.num_rounds >= args.num_updates:
        fail(f"--num-rounds must be less than --num-updates, not {args.num_rounds}.")
    if args.device not in ("auto", "cpu", "cuda")[: 2 + torch.cuda.is_available()]:
        fail(f"--device {args.device} is not available; it is auto, cpu or, with a CUDA device, cuda.")
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    demo_env_id, eval_seed = args.demo_env_id or args.env_id, 1_000_000 * args.seed + 600_000
    try:
        envs, demo_envs = make_envs(args.env_id, args.num_envs, args.max_episode_steps), make_envs(demo_env_id, 1)
        if len({(str(e.single_action_space), e.single_observation_space.shape) for e in (envs, demo_envs)}) > 1:
            raise ValueError(f"--demo-env-id {demo_env_id} has other observations or actions than {args.env_id}.")
        policy = Policy(args, envs.single_observation_space, envs.single_action_space).to(device)
        if not args.checkpoint:
            expert = load_expert(args.env_id, args.expert)
            demos = load_expert(demo_env_id, args.expert, dataset=args.dataset)
            if args.dataset:
                demos.replay(args.num_demos)  # are there as many?
        if args.checkpoint:
            metadata = load(policy, args.checkpoint, {"algorithm": algorithm, "env_id": args.env_id})
        elif resume:
            policy.load_state_dict(weights)
            obs, actions = obs.to(device), actions.to(device)
        else:
            obs, actions = policy.obs_moments[:0], policy.action_moments[:0]  # none so far
            metadata = {"algorithm": algorithm, "env_id": args.env_id, "seed": args.seed, "args": asdict(args)}
            metadata |= {"num_transitions": 0, "expert_labels": 0, "train_seconds": 0.0, "rounds": []}
            metadata |= {"expert_return": expert.return_mean, "random_return": expert.random_return}
        name = re.sub("[:/]", "-", f"{args.env_id}__{algorithm}__{args.seed}__{int(time.time())}")
        run = Path(resume or Path(args.run_dir) / name)
        run.mkdir(parents=True, exist_ok=bool(resume))
    except (ValueError, OSError) as error:
        fail(f"--run-dir {args.run_dir} cannot be written: {error}" if isinstance(error, OSError) else error)
    if not (resume or args.checkpoint):
        save(run, policy, obs, actions, metadata)
    writer = SummaryWriter(run)
    writer.add_text("hyperparameters", "\n".join(f"    {name} = {value}" for name, value in asdict(args).items()))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: fail(f"interrupted; go on with --resume {run}", status=130))
    rounds = range(0) if args.checkpoint else range(len(metadata["rounds"]), args.num_rounds + 1)
    num_updates = args.num_updates // (args.num_rounds + 1)
    progress = tqdm(desc=algorithm, total=num_updates * len(rounds), unit=" updates", disable=None if rounds else True)
    for number in rounds:  # a function of the seed, the number, the weights and the data, so that it can be repeated
        torch.manual_seed(seed := 1_000_000 * args.seed + 1_000 * number)
        beta = {"indicator": 0.0, "exponential": 0.5**number, "linear": 1 - number / max(1, args.num_rounds)}
        beta = 1.0 if number == 0 else beta[args.beta_schedule]
        env_id, episodes = (args.env_id, args.episodes_per_round) if number else (demo_env_id, args.num_demos)
        expert = load_expert(env_id, args.expert, seed, None if number else args.dataset)
        visited = make_envs(env_id, min(args.num_envs, episodes))
        *new, returns = visit(visited, expert, policy, beta, episodes, seed, args.label_every)
        obs, actions = torch.cat([obs, new[0]]), torch.cat([actions, new[1]])  # (2)
        policy.fit(obs, actions)
        begin = time.perf_counter()
        loss = train(policy, obs, actions, num_updates, args, progress)
        if not math.isfinite(loss):
            fail(f"the loss is {loss} after round {number}; lower --learning-rate. The round before is in {run}")
        metadata["train_seconds"] += time.perf_counter() - begin
        metadata["updates_per_second"] = num_updates * (number + 1) / metadata["train_seconds"]
        metadata["num_transitions"] = metadata["expert_labels"] = len(obs)
        mean = evaluate(envs, policy, args.num_envs, eval_seed)["return_mean"]
        line = {"expert_labels": len(obs), "beta": beta, "visited_return": returns.mean(), "return_mean": mean}
        metadata["rounds"].append(line | {"loss": loss})
        save(run, policy, obs, actions, metadata)
        for name, value in metadata["rounds"][-1].items():
            writer.add_scalar(f"round/{name}", value, len(obs))
        progress.set_postfix({"round": number, "labels": len(obs), "last_return": f"{mean:.2f}"})
    progress.close()
    results = metadata | evaluate(envs, policy, args.eval_episodes, eval_seed)
    worst, best, mean = results["random_return"], results["expert_return"], results["return_mean"]
    results |= {"normalized_return": (mean - worst) / (best - worst), "total_seconds": time.time() - start}
    results["versions"] = {name: version(name) for name in ("torch", "gymnasium", "mujoco", "numpy")}
    results["num_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    (run / "results.json").write_text(json.dumps(results, indent=2))
    writer.close()
    if args.capture_video:
        record = [lambda env: gym.wrappers.RecordVideo(env, str(run / "videos"), episode_trigger=lambda k: k < 3)]
        evaluate(make_envs(args.env_id, 1, render_mode="rgb_array", wrappers=record), policy, 3, eval_seed)
    success = f", success {results['success_rate']:.1%}" if "success_rate" in results else ""
    score = f"return {mean:.2f} ± {results['return_std']:.2f}{success}, normalised {results['normalized_return']:.3f}"
    score += f" ({results['expert_labels']:,} labels; expert {best:.2f})"
    print(f"{algorithm} on {args.env_id}: {score}; {time.time() - start:.0f} s; {run}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (OSError, SafetensorError) as error:  # a full disk, for one
        fail(f"{error}; what was saved before is whole", status=1)
