"""HG-DAgger: the novice drives, a person takes over when it errs, and only what the person then does becomes a label.

    D <- the expert's own episodes, pi_1 <- train(D)
    for i = 1, 2, ...: in each step act by the expert if g(s) holds, else by the novice pi_i               (1)
                       D <- D + {(s, pi*(s)) for every s with g(s)},  pi_(i+1) <- train(D)                 (2)
    doubt(s) = ||diag Cov(pi^1(s), ..., pi^E(s))||_2,  tau = mean of the last quarter of {doubt(s) at take-over}    (3)

Kelly, Sidrane, Driggs-Campbell & Kochenderfer, "HG-DAgger: Interactive Imitation Learning with Human Experts", 2019.
The novice is the mean of networks that differ in their initial weights. tau is a measure of risk and decides nothing:
results.json counts the states near failure with doubt < tau and with more. The gate (experts/gates.py) is simulated, on
the road by look-ahead, elsewhere by disagreement, or human: a held key takes over. The rest is as in dagger.py.
    python hg_dagger.py --env-id Hopper-v4 --num-rounds 10 --num-demos 1 --label-every 10  # return 0.977, 674 labels
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
from experts.gates import HumanGate, OpenGate, SimulatedGate


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
    # --- HG-DAgger ---
    num_rounds: int = 10  # after the demonstrations
    episodes_per_round: int = 4  # of visited states
    label_every: int = 1  # keep every n-th label only, in the demonstrations too
    demo_env_id: str | None = None  # where the demonstrations come from, if from elsewhere
    resume: str | None = None  # the directory of a stopped run, whose arguments hold
    ensemble_size: int = 5  # networks in the novice
    gate: Literal["simulated", "human"] = "simulated"  # human: you, at the keyboard, in a window
    gate_enter: float = 0.12  # mean disagreement above which the simulated gate takes over; unused on the road
    gate_steps: int = 5  # of that running mean, and of less than half the disagreement until it hands back


def moments(x):
    """Mean and standard deviation (2, dim) of x (T, dim), for standardising; a constant dimension is only centred."""
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    return torch.stack([mean, torch.where(std > 1e-6, std, 1.0)])


class Policy(nn.Module):
    """E networks; obs (B, obs_dim), actions (B, act_dim) in the environment's units, or categories (B, 1)."""

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
        self.nets = nn.ModuleList()
        for _ in range(args.ensemble_size):
            layers = nn.Linear(obs_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
            self.nets.append(nn.Sequential(*layers, nn.Linear(hidden, int(num_outputs))))

    def fit(self, obs, actions):
        """Take the statistics of the labels."""
        self.obs_moments.copy_(moments(obs))
        self.action_moments.copy_(moments(actions))

    def forward(self, obs):
        """Each network's standardised action (E, B, act_dim), or the categories' logits."""
        mean, std = self.obs_moments
        z = ((obs - mean) / std).clamp(-10, 10)
        return torch.stack([net(z) for net in self.nets])

    def loss(self, obs, actions):
        if self.discrete:
            labels = (actions - self.action_bounds[0]).squeeze(-1).long().repeat(len(self.nets))
            return nn.functional.cross_entropy(self(obs).flatten(0, 1), labels)
        mean, std = self.action_moments
        return (self(obs) - (actions - mean) / std).square().sum(-1).mean()

    @torch.no_grad()
    def act(self, obs):
        if self.discrete:
            return self.action_bounds[0] + self(obs).softmax(-1).mean(0).argmax(-1, keepdim=True)
        mean, std = self.action_moments
        return (mean + std * self(obs).mean(0)).clamp(*self.action_bounds)

    @torch.no_grad()
    def doubt(self, obs):
        """How far the networks disagree (B,), in standardised actions or in probabilities."""
        out = self(obs).softmax(-1) if self.discrete else self(obs)
        return out.var(0, correction=0).norm(dim=-1)  # (3)


def fail(message, status=2):
    """End with the message on standard error, without a traceback; status 2 is for wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def drive(envs, policy, gate, num_episodes, seed):
    """Episodes one after another, the expert acting where the gate says so (1); without a gate the novice alone.

    obs (T, obs_dim), actions (T, act_dim), and (T,) each: rewards, expert's control, taken over, doubt, near a failure.
    """
    device, controls, steps = next(policy.parameters()).device, [], []

    def act(obs):
        actions = policy.act(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
        actions = actions.reshape(envs.action_space.shape).astype(envs.action_space.dtype)
        labels, control = gate(obs, actions) if gate else (actions, np.zeros(len(obs), bool))
        controls.append(control)
        return np.where(control.reshape(-1, *[1] * (actions.ndim - 1)), labels, actions)

    act.reset, player = getattr(gate, "reset", None), gate.expert if isinstance(gate, OpenGate) else act
    for episode, obs, actions, rewards, _, infos in rollout(envs, player, num_episodes, seed):
        control = controls.pop() if controls else np.ones(len(obs), bool)
        failure = infos["terminated"] & ~np.array(infos.get("is_success", np.zeros(len(obs))), bool)
        steps.append((episode, obs, actions.reshape(len(obs), -1), rewards, control, failure))
        if gate and gate.closed:
            break
    columns = [np.concatenate(column) for column in zip(*steps, strict=True)]
    order = np.argsort(columns[0], kind="stable")[: (columns[0] < num_episodes).sum()]
    episode, obs, actions, rewards, control, failure = (column[order] for column in columns)
    taken = control & ((np.diff(episode, prepend=-1) > 0) | ~np.roll(control, 1))
    end = np.searchsorted(episode, episode, side="right")  # of the episode that each state belongs to
    near = failure[end - 1] & (end - np.arange(len(end)) <= 10)  # at most ten steps before it fails
    doubt = policy.doubt(torch.as_tensor(obs, dtype=torch.float32, device=device)).cpu().numpy()
    return obs, actions, rewards, control, taken, doubt, near


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
            expert = load_expert(args.env_id, args.expert, dataset=args.dataset if args.gate == "human" else None)
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
            metadata |= {"num_transitions": 0, "expert_labels": 0, "train_seconds": 0.0, "rounds": [], "doubts": []}
            metadata |= {"expert_return": expert.return_mean, "random_return": expert.random_return}
        human = HumanGate(args.env_id) if args.gate == "human" and not args.checkpoint else None
        name = re.sub("[:/]", "-", f"{args.env_id}__{algorithm}__{args.seed}__{int(time.time())}")
        run = Path(resume or Path(args.run_dir) / name)
        run.mkdir(parents=True, exist_ok=bool(resume))
    except (ValueError, OSError) as error:
        fail(f"--run-dir {args.run_dir} cannot be written: {error}" if isinstance(error, OSError) else error)
    if not (resume or args.checkpoint):
        save(run, policy, obs, actions, metadata)
    writer = SummaryWriter(run)
    writer.add_text("hyperparameters", "\n".join(f"    {name} = {value}" for name, value in asdict(args).items()))
    stop = lambda *_: fail(f"interrupted; go on with --resume {run}", status=130)  # noqa: E731
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: human.close() if human and not human.closed else stop())
    rounds = range(0) if args.checkpoint else range(len(metadata["rounds"]), args.num_rounds + 1)
    num_updates = args.num_updates // (args.num_rounds + 1)
    progress = tqdm(desc=algorithm, total=num_updates * len(rounds), unit=" updates", disable=None if rounds else True)
    for number in rounds:  # a function of the seed, the number, the weights and the data, so that it can be repeated
        torch.manual_seed(seed := 1_000_000 * args.seed + 1_000 * number)
        env_id, episodes = (args.env_id, args.episodes_per_round) if number else (demo_env_id, args.num_demos)
        expert = load_expert(env_id, args.expert, seed, args.dataset if number == 0 or human else None)
        visited = make_envs(env_id, min(args.num_envs, episodes))
        rule = SimulatedGate(visited, expert, policy, args.gate_enter, args.gate_steps)
        gate = OpenGate(visited, expert) if number == 0 else human.begin(run, number) if human else rule
        states, labels, _, control, taken, doubt, _ = drive(gate.envs, policy, gate, episodes, seed)
        metadata["doubts"] += doubt[taken].tolist() if number > 0 else []
        new = gate.corrections() if gate is human else (states[control], labels[control])
        new = (torch.as_tensor(x[:: args.label_every], dtype=torch.float32, device=device) for x in new)
        obs, actions = (torch.cat(pair) for pair in zip((obs, actions), new, strict=True))  # (2)
        policy.fit(obs, actions)
        begin = time.perf_counter()
        loss = train(policy, obs, actions, num_updates, args, progress)
        if not math.isfinite(loss):
            fail(f"the loss is {loss} after round {number}; lower --learning-rate. The round before is in {run}")
        metadata["train_seconds"] += time.perf_counter() - begin
        metadata["updates_per_second"] = num_updates * (number + 1) / metadata["train_seconds"]
        metadata["num_transitions"] = metadata["expert_labels"] = len(obs)
        line = {"expert_labels": len(obs), "loss": loss, "expert_share": control.mean()}
        line |= {"corrections": int(taken.sum()), "correction_steps": control.sum() / max(1, taken.sum())}
        metadata["tau"] = np.mean(metadata["doubts"][-math.ceil(len(metadata["doubts"]) / 4) :] or 0.0)  # (3)
        _, _, rewards, _, _, doubt, near = drive(envs, policy, None, args.num_envs, eval_seed)
        for side, mask in (("inside", doubt < metadata["tau"]), ("outside", doubt >= metadata["tau"])):
            line |= {f"states_{side}": int(mask.sum()), f"near_failure_{side}": int((mask & near).sum())}
        line["return_mean"] = mean = rewards.sum() / args.num_envs
        metadata["rounds"].append(line)
        save(run, policy, obs, actions, metadata)
        for name, value in line.items():
            writer.add_scalar(f"round/{name}", value, len(obs))
        progress.set_postfix({"round": number, "labels": len(obs), "last_return": f"{mean:.2f}"})
        if human and human.closed:
            break
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
