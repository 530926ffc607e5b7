"""Breaks the scripts in one place at a time, to see that a test notices: python -m tests.mutants

Each mutation replaces a text, which must occur exactly once, in a copy of the repository, and names
the tests that should fail. The table that is printed says which test did. The exit status is 1 if a
mutation survives, if its text has gone, if its tests are none, or if they fail without it.

    python -m tests.mutants hg_dagger gate     # those that contain each of these words
"""

import importlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import namedtuple
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
COPIED = ["*.py", "pyproject.toml", "experts/*.py", "tests/*.py"]
CPU_SECONDS = 30  # in which the tests of one mutation must end
Mutation = namedtuple("Mutation", "script old new file tests")

# [script, file of tests], then for each mutation an expression for pytest -k, and the two texts.
# What all scripts share is mutated in one of them: tests/test_twins.py holds them together.
TABLE = r"""
[bc_mse test_shared]

episode_k and bc_mse
    - envs.reset(seed=seed + len(episodes))
    + envs.reset(seed=seed)
episode_k and bc_mse
    - running = running & ~done
    + running = ~done
episode_k and bc_mse
    - steps.append((obs, actions, rewards, running))
    + steps.append((next_obs, actions, rewards, running))
episode_k and bc_mse
    - return episodes[:num_episodes]
    + return episodes
own_last_step and bc_mse
    - done = running & (terminated | truncated)
    + done = terminated | truncated
own_last_step and bc_mse
    - last_infos[i][key] = infos[key][i]
    + last_infos[i][key] = infos[key][0]
reuse_its_array and bc_mse
    - act(obs.copy())
    + act(obs)
reuse_its_array and bc_mse
    - np.array(act(obs.copy()))
    + act(obs.copy())
tenth_as_many and bc_mse
    - seed = 1_000_000 * args.seed
    -         episodes
    + seed = args.seed
    +         episodes
tenth_as_many and bc_mse
    - args.num_demos + math.ceil(args.num_demos / 10)
    + args.num_demos + args.num_demos // 10
expert_gets_the_seed and bc_mse
    - load_expert(args.env_id, args.expert, args.seed)
    + load_expert(args.env_id, args.expert, 0)
seeds_of_its_own and bc_mse
    - seed = 1_000_000 * args.seed + 500_000
    -     episodes
    + seed = 1_000_000 * args.seed
    +     episodes
videos_show_the_first_episodes and bc_mse
    - args.seed + 500_000 + number
    + args.seed + 500_000
videos_show_the_first_episodes and bc_mse
    - rollout(envs, policy.act, 1, seed, "video")
    + rollout(envs, policy.act, 2, seed, "video")
counts_returns and bc_mse
    - episode.rewards.sum()) for episode
    + episode.rewards[-1]) for episode
counts_returns and bc_mse
    - len(successes) / num_episodes
    + len(successes) / len(successes)
counts_returns and bc_mse
    -  if np.all(info.get("is_success", False))]
    + ]
leaves_out and bc_mse
    - for demo in demos[: args.num_demos])
    + for demo in demos)
leave_out and bc_mse
    - obs, actions = to_tensors(demos[: args.num_demos], args.device)
    + obs, actions = to_tensors(demos, args.device)
held_out_loss and bc_mse
    - metadata["held_out_loss"] = held_out_loss
    + metadata["held_out_loss"] = train_loss
held_out_loss and bc_mse
    - held_out = to_tensors(demos[args.num_demos :], args.device)
    + held_out = to_tensors(demos[: args.num_demos], args.device)
leave_out and bc_mse
    - policy.set_statistics(obs, actions)
    + policy.set_statistics(*held_out)
warms_up and bc_mse
    - warm_up = 20 * fraction
    + warm_up = 1
warms_up and bc_mse
    - math.cos(math.pi * fraction)
    + math.cos(0)
equally_often and bc_mse
    - torch.randint(len(obs), (args.batch_size,)
    + torch.randint(len(obs) // 2, (args.batch_size,)
gradient_of_its_own and bc_mse
    - optimizer.zero_grad()
    + pass
last_policy and bc_mse
    -  or update == args.num_updates
    +
on_the_way and bc_mse
    - update % args.eval_every == 0 and update < args.num_updates
    + update < args.num_updates
not_finite and bc_mse
    - if not math.isfinite(train_loss):
    + if False:
initialised and bc_mse
    - torch.manual_seed(args.seed)
    + pass

[bc_mse test_cli]

any_type and bc_mse
    - isinstance(infos.get(key), np.ndarray) and
    + key in infos and
any_type and bc_mse
    - np.all(info.get("is_success", False))
    + info.get("is_success", False)
rendered and bc_mse
    -         check_rendering(args)
    +         pass
rendered and bc_mse
    - raise  # the user's own code
    + pass
same_second and bc_mse
    - except FileExistsError:
    + except FileNotFoundError:
answered_in_a_line and bc_mse and sensor
    -  or not np.isfinite(obs).all()
    +
answered_in_a_line and bc_mse and bounds
    - if not all(action in
    + if False and not all(action in
answered_in_a_line and bc_mse and number
    - tensor.isnan().any()
    + False
flags_given_with_a_checkpoint
    - , "args": asdict(args)}
    + }
answered_in_a_box and bc_mse and fast
    - 0 < self.learning_rate < math.inf
    + self.learning_rate > 0
keep_their_traceback and bc_mse and battery
    - except (gym.error.Error, ImportError) as error:
    + except Exception as error:

[bc_mse test_policies]

squared_loss_is and bc_mse
    - .square().sum(-1).mean()
    + .square().mean()
squared_loss_is and bc_mse
    - (self(obs) - target).square()
    + (self(obs) - target).abs()
squared_loss_is and bc_mse
    - target = (actions - self.action_mean) / self.action_std
    + target = actions - self.action_mean
is_the_output and bc_mse
    - actions = self.action_mean + self.action_std * self(obs)
    + actions = self.action_std * self(obs)
is_the_output and bc_mse
    - actions = self.action_mean + self.action_std * self(obs)
    + actions = self.action_mean + self(obs)
beyond_the_bounds and bc_mse
    - return actions.clamp(self.action_low, self.action_high)
    + return actions
clamped_at_ten and bc_mse
    - ((obs - self.obs_mean) / self.obs_std)
    + (obs - self.obs_mean)
clamped_at_ten and bc_mse
    - / self.obs_std).clamp(-10, 10)
    + / self.obs_std)
only_centred and bc_mse
    - torch.where(std > 1e-6, std, 1.0)
    + torch.where(std > 1e-6, std, 1e-6)
only_centred and bc_mse
    - x.std(0, correction=0)
    + x.std(0)

[bc_gaussian test_policies]

gaussian_log_prob
    - -0.5 * z.square()
    + -z.square()
gaussian_log_prob
    -  - sigma.log()
    +
gaussian_log_prob
    -  - 0.5 * math.log(2 * math.pi)
    +
gaussian_log_prob
    -  - self.action_std.log()
    +
gaussian_log_prob
    - -self.log_prob(obs, actions).mean()
    + -self.log_prob(obs, actions).sum()
sigma_is and gaussian
    - self.min_std + F.softplus(raw_sigma)
    + F.softplus(raw_sigma)
sigma_is and gaussian
    - F.softplus(raw_sigma)
    + raw_sigma.exp()
acts_by_its_mean
    - if self.stochastic else mu
    + if True else mu
stochastic_gaussian
    - torch.normal(mu, sigma)
    + torch.normal(mu, 1.0)

[bc_gaussian test_shared]

disturbs_nothing and gaussian
    - torch.random.fork_rng()
    + torch.no_grad()
disturbs_nothing and gaussian
    -         torch.manual_seed(args.seed)
    -         seed =
    +         seed =

[bc_mog test_policies]

mog_log_prob
    - return log_w - (
    + return -(
mog_log_prob
    - (0.5 * z.square() + sigma.log())
    + (z.square() + sigma.log())
mog_log_prob
    -  + sigma.log())
    + )
mog_log_prob
    - 0.5 * self.D * math.log(2 * math.pi)
    + 0.5 * math.log(2 * math.pi)
mog_log_prob
    - .logsumexp(-1)
    + .amax(-1)
mog_log_prob
    -  + self.action_std.log().sum()
    +
mog_log_prob
    - return log_sum - constant
    + return log_sum
mog_log_prob
    - return -self.log_prob(obs, actions).mean()
    + return self.log_prob(obs, actions).mean()
mog_draws_a_component
    - shifted = (r[:, :, None] * mu).sum(1)
    + shifted = drawn
mog_draws_a_component
    - r = self.log_joint(drawn, log_w, mu, sigma).softmax(-1)
    + r = log_w.exp()
mog_draws_a_component
    - torch.multinomial(log_w.exp(), 1)
    + log_w.argmax(-1, keepdim=True)
environments_units and mog
    - actions = self.action_mean + self.action_std * shifted
    + actions = shifted
sigma_is and bc_mog
    - self.min_std + F.softplus(raw_sigma)
    + F.softplus(raw_sigma)
start_apart and mog
    - nn.init.normal_(
    + nn.init.zeros_(

[bc_autoregressive test_autoregressive]

soft_labels_are
    - (-0.5 * z.square()).softmax(-1)
    + (-z.square()).softmax(-1)
three_bandwidths
    - low = actions.amin(0) - 3 * bandwidth
    + low = actions.amin(0)
three_bandwidths
    - self.smoothing * actions.std(0, correction=0)
    + self.smoothing * actions.std()
three_bandwidths
    - torch.arange(self.B, device=low.device) + 0.5
    + torch.arange(self.B, device=low.device)
half_a_bin
    - torch.maximum(bandwidth, width / 2)
    + torch.maximum(bandwidth, width / 8)
sees_only
    - F.pad(embedded[:, :-1].cumsum(1), (0, 0, 1, 0))
    + embedded.cumsum(1)
sees_only
    - embedded[:, :-1].cumsum(1)
    + embedded[:, :-1]
integrates
    -  - self.width.log()
    +
density_is_that_of_the_bin
    - bins = (actions[..., None] - self.centres).abs().argmin(-1, keepdim=True)
    + bins = (self.centres < actions[..., None]).sum(-1, keepdim=True).clamp(max=self.B - 1)
cross_entropy
    - -(q * self(obs, q)).sum((1, 2)).mean()
    + -(q * self(obs, q)).sum(2).mean()
three_times
    - for _ in range(3)
    + for _ in range(1)
three_times
    - / (2 * self.bandwidth[d])
    + / self.bandwidth[d]
three_times
    - r = (logits - 0.5
    + r = (-0.5
three_times
    - b = torch.multinomial(logits.softmax(-1), 1)
    + b = logits.argmax(-1, keepdim=True)
three_times
    - action = (r * self.centres[d]).sum(-1, keepdim=True)
    + action = self.centres[d][r.argmax(-1, keepdim=True)]
one_by_one
    - before = before + self.soft_labels(action[:, 0], d) @ self.embedding[d]
    + pass
one_by_one
    - self.soft_labels(action[:, 0], d) @ self.embedding[d]
    + self.soft_labels(action[:, 0], d) @ self.embedding[-1]
one_by_one
    - @ self.head[d] + self.mask[d]
    + @ self.head[d]
missing_ones
    - hidden, self.head) + self.mask
    + hidden, self.head)
multidiscrete_actions_may_start
    - low = np.atleast_1d(action_space.start)
    + low = np.zeros(len(sizes))
start_elsewhere
    - actions = actions.round()
    + actions = actions - 0.1

[bc_diffusion test_diffusion]

schedule
    - torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
    + torch.cos((share + 0.008) / 1.008 * math.pi / 2)
schedule
    - (share + 0.008) / 1.008
    + share
schedule
    - .clamp(min=0.001)
    + .clamp(min=0.01)
network_sees
    - angles.cos(), abar.sqrt(), (1 - abar).sqrt()]
    + angles.cos(), abar, (1 - abar).sqrt()]
little_noise
    - t = (t.square() / self.num_diffusion_steps).ceil().long()
    + pass
noise_is_standard
    - if self.fine_modes:
    + if True:
noise_is_standard
    - x = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    + x = abar.sqrt() * x0 + (1 - abar) * eps
noise_is_standard
    - torch.randint(1, self.num_diffusion_steps + 1,
    + torch.randint(1, self.num_diffusion_steps,
noise_is_standard
    - eps = torch.randn_like(x0)
    + eps = torch.rand_like(x0)
signal_to_noise
    - (weight * (x0 - prediction).square())
    + (x0 - prediction).square()
signal_to_noise
    - .clamp(1, 100 if self.fine_modes else 20)
    + .clamp(1, 100)
little_noise
    - .clamp(1, 100 if self.fine_modes else 20)
    + .clamp(1, 20)
signal_to_noise
    - .clamp(1, 100 if self.fine_modes else 20)
    + .clamp(0, 100 if self.fine_modes else 20)
predicting_noise
    - return (eps - prediction).square().sum(-1).mean()
    + return (x0 - prediction).square().sum(-1).mean()
quadratic
    - i**2 / n**2
    + i / n
published_update
    - x0 = (x - math.sqrt(1 - abar[t]) * prediction) / math.sqrt(abar[t])
    + x0 = x - math.sqrt(1 - abar[t]) * prediction
published_update
    - x0 = x0.clamp(-1, 1)
    + pass
published_update
    - eps = (x - math.sqrt(abar[t]) * x0) / math.sqrt(1 - abar[t])
    + eps = (x - math.sqrt(abar[r]) * x0) / math.sqrt(1 - abar[t])
published_update
    - x = math.sqrt(abar[r]) * x0 +
    + x = math.sqrt(abar[t]) * x0 +
ddpm
    - (1 - abar[r]) / (1 - abar[t]) * (1 - abar[t] / abar[r])
    + (1 - abar[r]) * (1 - abar[t] / abar[r])
eta_between
    - sigma = self.eta * math.sqrt(ddpm_variance)
    + sigma = self.eta**2 * math.sqrt(ddpm_variance)
ddpm
    - 1 - abar[r] - sigma**2
    + 1 - abar[r]
ddpm
    -  + sigma * z
    +

[bc_diffusion test_chunks]

five_frequencies and diffusion
    - math.pi * 2.0 ** torch.arange(num_frequencies)
    + math.pi * torch.arange(num_frequencies)
five_frequencies and diffusion
    - [obs, x, angles.sin(), angles.cos(),
    + [obs, x, angles.sin(), angles.sin(),
in_the_environments_units and diffusion
    - return self.action_centre + self.action_scale * x
    + return self.action_scale * x
range_of_the_demonstrated and diffusion
    - half_range = (high - low) / 2
    + half_range = high - low
range_of_the_demonstrated and diffusion
    - actions = actions.unflatten(-1, (self.horizon, -1)).flatten(0, 1)
    + actions = actions.unflatten(-1, (self.horizon, -1))[:, 0]
constant_action and diffusion
    - torch.where(half_range > 1e-6, half_range, 1.0)
    + torch.where(half_range > 1e-6, half_range, 1e-6)
average_starts and diffusion
    - self.num_averaged) / (10 + self.num_averaged)
    + self.num_averaged) / (9 + self.num_averaged)
average_starts and diffusion
    - min(self.ema_decay,
    + max(self.ema_decay,
average_starts and diffusion
    - average.lerp_(parameter, 1 - decay)
    + average.lerp_(parameter, decay)
average_acts and diffusion
    - self.predict(self.ema_net, obs, x, steps)
    + self.predict(self.net, obs, x, steps)
average_acts and diffusion
    - self.predict(self.net, obs, x, t)
    + self.predict(self.ema_net, obs, x, t)
has_its_place and diffusion
    - self.action_scale * x.unflatten(-1, (self.horizon, -1))
    + self.action_scale * x.unflatten(-1, (-1, self.horizon)).mT
executed_in_order and diffusion
    - [:, : self.action_horizon]
    +
executed_in_order and diffusion
    - self.queue.popleft()
    + self.queue.pop()
episodes_begin and diffusion
    -         if at_start:
    -             at_start()
    +         pass
evaluation_clears and diffusion
    - , at_start=clear
    +
actions_ahead and diffusion
    - np.minimum(t + np.arange(horizon), last)
    + np.minimum(t + 1 + np.arange(horizon), last)
actions_ahead and diffusion
    - last = len(episode.actions) - 1
    + last = len(episode.actions) - 2

[bc_diffusion test_shared]

after_each_optimiser_step and diffusion
    - policy.update_average()
    + pass
seeds_of_its_own and diffusion
    - seed = 1_000_000 * args.seed + 500_000
    -         clear
    + seed = 1_000_000 * args.seed
    +         clear
videos_show_the_first_episodes and diffusion
    - "video", at_start=policy.queue.clear)
    + "video")
disturbs_nothing and diffusion
    - with torch.random.fork_rng():
    + with torch.no_grad():
disturbs_nothing and diffusion
    -         torch.manual_seed(args.seed)
    -         seed =
    +         seed =
leave_out and diffusion
    - obs, actions = to_tensors(demos[: args.num_demos], args.horizon, args.device)
    + obs, actions = to_tensors(demos, args.horizon, args.device)
held_out_loss and diffusion
    - held_out = to_tensors(demos[args.num_demos :], args.horizon, args.device)
    + held_out = to_tensors(demos[: args.num_demos], args.horizon, args.device)

[bc_flow test_flow]

points_lie
    - torch.randn_like(a)
    + torch.rand_like(a)
points_lie
    - torch.rand(len(a), 1, device=a.device)
    + torch.rand(len(a), 1, device=a.device).sqrt()
points_lie
    - x = (1 - t) * eps + t * a
    + x = (1 - t).sqrt() * eps + t * a
squared_error
    - (1 - t).clamp(min=0.2)
    + (1 - t).clamp(min=0.1)
squared_error
    - return error.square().sum(-1).mean()
    + return error.square().mean()
squared_error
    -  - a) / (1 - t)
    +  - eps) / (1 - t)
network_sees
    - angles.cos(), t]
    + angles.cos(), t.sqrt()]
times_go
    - 1 - (1 - k / n) ** 2
    + k / n
euler
    -  - x) / (1 - t)  # (2)
    +  - x)  # (2)
euler
    - x = x + (next_t - t) * velocity
    + x = x + next_t * velocity
exact_flow
    - x = torch.randn(
    + x = torch.rand(

[bc_flow test_chunks]

five_frequencies and flow
    - math.pi * 2.0 ** torch.arange(num_frequencies)
    + math.pi * torch.arange(num_frequencies)
five_frequencies and flow
    - [obs, x, angles.sin(), angles.cos(),
    + [obs, x, angles.sin(), angles.sin(),
in_the_environments_units and flow
    - return self.action_centre + self.action_scale * x
    + return self.action_scale * x
range_of_the_demonstrated and flow
    - half_range = (high - low) / 2
    + half_range = high - low
range_of_the_demonstrated and flow
    - actions = actions.unflatten(-1, (self.horizon, -1)).flatten(0, 1)
    + actions = actions.unflatten(-1, (self.horizon, -1))[:, 0]
constant_action and flow
    - torch.where(half_range > 1e-6, half_range, 1.0)
    + torch.where(half_range > 1e-6, half_range, 1e-6)
average_starts and flow
    - self.num_averaged) / (10 + self.num_averaged)
    + self.num_averaged) / (9 + self.num_averaged)
average_starts and flow
    - min(self.ema_decay,
    + max(self.ema_decay,
average_starts and flow
    - average.lerp_(parameter, 1 - decay)
    + average.lerp_(parameter, decay)
average_acts and flow
    - self.predict(self.ema_net, obs, x, t_column)
    + self.predict(self.net, obs, x, t_column)
average_acts and flow
    - self.predict(self.net, obs, x, t)
    + self.predict(self.ema_net, obs, x, t)
has_its_place and flow
    - self.action_scale * x.unflatten(-1, (self.horizon, -1))
    + self.action_scale * x.unflatten(-1, (-1, self.horizon)).mT
executed_in_order and flow
    - [:, : self.action_horizon]
    +
executed_in_order and flow
    - self.queue.popleft()
    + self.queue.pop()
episodes_begin and flow
    -         if at_start:
    -             at_start()
    +         pass
evaluation_clears and flow
    - , at_start=clear
    +
actions_ahead and flow
    - np.minimum(t + np.arange(horizon), last)
    + np.minimum(t + 1 + np.arange(horizon), last)
actions_ahead and flow
    - last = len(episode.actions) - 1
    + last = len(episode.actions) - 2

[bc_flow test_shared]

after_each_optimiser_step and flow
    - policy.update_average()
    + pass
seeds_of_its_own and flow
    - seed = 1_000_000 * args.seed + 500_000
    -         clear
    + seed = 1_000_000 * args.seed
    +         clear
videos_show_the_first_episodes and flow
    - "video", at_start=policy.queue.clear)
    + "video")
disturbs_nothing and flow
    - with torch.random.fork_rng():
    + with torch.no_grad():
disturbs_nothing and flow
    -         torch.manual_seed(args.seed)
    -         seed =
    +         seed =
leave_out and flow
    - obs, actions = to_tensors(demos[: args.num_demos], args.horizon, args.device)
    + obs, actions = to_tensors(demos, args.horizon, args.device)
held_out_loss and flow
    - held_out = to_tensors(demos[args.num_demos :], args.horizon, args.device)
    + held_out = to_tensors(demos[: args.num_demos], args.horizon, args.device)

[dagger test_dagger]

somebody_has_changed and not hg
    -     check_data(envs, obs.numpy(), actions.numpy(), f"--resume {run}")
    +     pass
may_be_given_more_rounds
    - metadata["args"] = asdict(args)
    + pass

[dagger test_labels]

acts
    - actions[expert_acts] = by_expert[expert_acts]
    + pass
whoever_acts
    - labels.append(by_expert[is_labelled])
    + labels.append(actions[is_labelled])
whoever_acts
    - visited.append(obs[is_labelled])
    + visited.append(obs)
drawn_anew
    - rng.random(envs.num_envs) < beta
    + np.full(envs.num_envs, rng.random() < beta)
drawn_anew
    - expert_acts = rng.random(envs.num_envs) < beta
    + expert_acts = np.random.default_rng(seed).random(envs.num_envs) < beta
depends_on_the_seed
    - rng = np.random.default_rng(seed)
    + rng = np.random.default_rng(0)
whoever_acts
    - envs.reset(seed=seed + episode)
    + envs.reset(seed=seed)
whoever_acts
    - running = episode + np.arange(envs.num_envs) < args.episodes_per_round
    + running = np.ones(envs.num_envs, dtype=bool)
whoever_acts
    - running = running & ~(terminated | truncated)
    + running = ~(terminated | truncated)
every_nth
    - (step % args.label_every == 0)
    + True
every_nth
    - rng.integers(args.label_every, size=envs.num_envs)
    + np.zeros(envs.num_envs, dtype=int)
may_return_a_list
    - np.array(expert(obs.copy()))
    + expert(obs.copy())
reuses_its_array
    - expert(obs.copy())
    + expert(obs)
schedules_of_beta
    - return 0.5**number
    + return 0.5 ** (number - 1)
schedules_of_beta
    - return 1 - number / args.num_rounds
    + return 1 - number / (args.num_rounds + 1)
schedules_of_beta
    -     return 0.0
    +     return 1.0
schedules_of_beta
    -     if number == 0:
    +     if False:
has_its_beta
    - drive(args, round_envs, policy, expert, beta, seed)
    + drive(args, round_envs, policy, expert, 0.0, seed)
seed_of_its_own and not hg
    - seed = 1_000_000 * args.seed + 1_000 * number
    + seed = 1_000_000 * args.seed
seed_of_its_own and not hg
    - torch.manual_seed(seed)
    + torch.manual_seed(args.seed)
seed_of_its_own and not hg
    - expert = get_expert(args, seed)
    + expert = get_expert(args, args.seed)
all_labels_so_far and not hg
    - obs = torch.cat([obs, visited])
    + obs = visited
all_labels_so_far and not hg
    - actions = torch.cat([actions, labels])
    + actions = labels
shared_by and not hg
    - args.num_updates // (args.num_rounds + 1)
    + args.num_updates
rounds_that_remain and not hg
    - range(len(metadata["rounds"]), args.num_rounds + 1)
    + range(args.num_rounds + 1)

seed_of_its_own and not hg
    - return load_expert(args.env_id, args.expert, seed)
    + return load_expert(args.env_id, args.expert, 0)

[dagger test_shared]

all_labels_with_their_statistics and not hg
    - policy.set_statistics(obs, actions)
    + policy.set_statistics(obs[:2], actions[:2])
warms_up and not hg and dagger
    - warm_up = 20 * fraction
    + warm_up = 1
every_nth and not hg
    - actions.append(episode.actions[start :: args.label_every])
    + actions.append(episode.actions[:: args.label_every])
every_nth and not hg
    - start = rng.integers(min(args.label_every, len(episode.obs)))
    + start = 0
shorter_than_n and not hg
    - rng.integers(min(args.label_every, len(episode.obs)))
    + rng.integers(args.label_every)
depends_on_the_seed and not hg
    - rng = np.random.default_rng(args.seed)
    -     obs = []
    + rng = np.random.default_rng(0)
    +     obs = []
a_million_times and not hg
    - seed = 1_000_000 * args.seed
    -         episodes
    + seed = 0
    +         episodes

[dagger test_policies]

squared_loss_is and dagger
    - (self(obs) - target).square().sum(-1).mean()
    + (self(obs) - target).square().mean()
cross_entropy
    - F.cross_entropy(self(obs), actions - self.start)
    + F.cross_entropy(self(obs), actions % 3)
categories_may_start and not hg
    - (self.start + self(obs).argmax(-1))
    + self(obs).argmax(-1)

[hg_dagger test_labels]

labels_are_those_of_the_steps
    - running & gate & (step
    + running & (step
labels_where_they_disagree
    - running & gate & (step
    + gate & (step
labels_where_they_disagree
    - labels.append(corrections[is_labelled])
    + labels.append(proposals[is_labelled])
labels_where_they_disagree
    - actions[gate] = corrections[gate]
    + pass
may_return_a_list
    - np.array(expert(obs.copy()))
    + expert(obs.copy())
opens_above
    - threshold = np.where(gate, args.gate_threshold / 2, args.gate_threshold)
    + threshold = args.gate_threshold
opens_above
    - np.where(gate, args.gate_threshold / 2,
    + np.where(gate, 0,
opens_above
    - disagreement += (distance - disagreement) / args.gate_steps
    + disagreement = distance
opens_above
    - disagreement += (distance - disagreement) / args.gate_steps
    + disagreement += distance / args.gate_steps
every_nth_step
    - (step % args.label_every == 0)
    + True
every_nth_step
    - rng.integers(args.label_every, size=envs.num_envs)
    + np.zeros(envs.num_envs, dtype=int)
every_nth_step
    - takes_over = gate & ~previous_gate
    + takes_over = gate
every_nth_step
    - take_overs += doubt[running & takes_over].tolist()
    + take_overs += doubt[running].tolist()
labels_where_they_disagree
    - take_overs += doubt[running & takes_over].tolist()
    + take_overs += doubt[takes_over].tolist()
labels_where_they_disagree
    - controlled += gate[running].tolist()
    + controlled += gate.tolist()
begins_with_the_novice
    - disagreement = np.zeros(envs.num_envs)
    + disagreement = np.zeros(envs.num_envs) if episode == 0 else disagreement
take_over_in_the_first_step
    - gate = np.zeros(envs.num_envs, dtype=bool)
    + gate = np.zeros(envs.num_envs, dtype=bool) if episode == 0 else gate
labels_where_they_disagree
    - envs.reset(seed=seed + episode)
    + envs.reset(seed=seed)
labels_where_they_disagree
    - running = episode + np.arange(envs.num_envs) < args.episodes_per_round
    + running = np.ones(envs.num_envs, dtype=bool)
labels_where_they_disagree
    - running = running & ~(terminated | truncated)
    + running = ~(terminated | truncated)
person_acts
    - states, labels = human.end_round()
    + states, labels = np.concatenate(states), np.concatenate(labels)
person_acts
    - human.begin_episode()
    + pass
where_the_person_ends_it
    -  and not (human and human.round_over)
    +
tau_is
    - metadata["doubts"][-math.ceil(len(metadata["doubts"]) / 4) :]
    + metadata["doubts"][: math.ceil(len(metadata["doubts"]) / 4)]
tau_is
    - metadata["doubts"][-math.ceil(len(metadata["doubts"]) / 4) :]
    + metadata["doubts"]
tau_is
    - -math.ceil(len(metadata["doubts"]) / 4)
    + -math.ceil(len(take_overs) / 4)
tau_is
    - float(np.mean(last_quarter))
    + float(np.max(last_quarter))
seed_of_its_own and hg
    - seed = 1_000_000 * args.seed + 1_000 * number
    + seed = 1_000_000 * args.seed
seed_of_its_own and hg
    - torch.manual_seed(seed)
    + torch.manual_seed(args.seed)
seed_of_its_own and hg
    - expert = None if human else get_expert(args, seed)
    + expert = None if human else get_expert(args, args.seed)
all_labels_so_far and hg
    - obs = torch.cat([obs, states])
    + obs = states
all_labels_so_far and hg
    - actions = torch.cat([actions, labels])
    + actions = labels

seed_of_its_own and hg
    - return load_expert(args.env_id, args.expert, seed)
    + return load_expert(args.env_id, args.expert, 0)

[hg_dagger test_policies]

mean_of_the_ensemble_acts
    - out.var(0, correction=0).norm(dim=-1)
    + out.var(0).norm(dim=-1)
mean_of_the_ensemble_acts
    - out.var(0, correction=0).norm(dim=-1)
    + out.var(0, correction=0).sum(dim=-1)
mean_of_the_ensemble_acts
    - self.action_std * out.mean(0)
    + self.action_std * out[0]
mean_probability
    - out = self(obs).softmax(-1)
    + out = self(obs)
squared_loss_is_the_mean
    - (self(obs) - target).square().sum(-1).mean()
    + (self(obs).mean(0) - target).square().sum(-1).mean()
learns_from_every_label
    - (actions - self.start).repeat(len(self.nets))
    + (actions - self.start).repeat_interleave(len(self.nets))
distance_is
    - / self.action_std.cpu().numpy()
    + / 1.0
distance_is
    - np.sqrt(np.square(z).mean(-1))
    + np.sqrt(np.square(z).sum(-1))
"""


def read_table(text):
    mutations = []
    old = []
    new = []
    for line in text.splitlines():
        if line.startswith("["):
            script, file = line.strip("[]").split()
        elif line.startswith("    -"):
            old.append(line[6:])
        elif line.startswith("    +"):
            new.append(line[6:])
        elif line:
            old = []
            new = []
            mutations.append((script, old, new, f"tests/{file}.py", line))
    return [Mutation(s, "\n".join(a), "\n".join(b), f, t) for s, a, b, f, t in mutations]


MUTATIONS = read_table(TABLE)


def mutated(mutation):
    """The text of the script with the mutation."""
    source = (ROOT / f"{mutation.script}.py").read_text()
    count = source.count(mutation.old)
    if count != 1:
        raise LookupError(f"{mutation.script}: {count} times, not once: {mutation.old}")
    return source.replace(mutation.old, mutation.new)


# --- Running the tests on a copy of the repository ---


def copy_repository(folder):
    for pattern in COPIED:
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def fork(function, log):
    """The exit status of a function in a forked process, which prints to the file `log`."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
            status = function()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def run_tests(folder, script, *arguments):
    """pytest's exit status in the copy; 70 if the tests did not import the copy's script."""
    import pytest

    sys.path = [path for path in sys.path if Path(path).resolve() != ROOT]
    for name in list(sys.modules):
        if name.split(".")[0] == "tests":
            del sys.modules[name]
    os.chdir(folder)
    fixed = ["-q", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider"]
    status = pytest.main([*fixed, *arguments])
    if script and Path(sys.modules[script].__file__).parent != folder:
        return 70
    return int(status)


def failures(log):
    return re.findall(r"^FAILED (\S+)", log.read_text(), flags=re.MULTILINE)


def failures_without_mutation(folder, mutations):
    """Tests that fail in the copy as it is: they prove nothing."""
    log = folder / "log"
    failed = []
    for file in sorted({mutation.file for mutation in mutations}):
        chosen = {mutation.tests for mutation in mutations if mutation.file == file}
        expression = " or ".join(f"({tests})" for tests in sorted(chosen))
        fork(lambda file=file, e=expression: run_tests(folder, None, file, "-k", e), log)
        failed += failures(log)
    return failed


def verdict(folder, mutation, failing_anyway):
    """What became of one mutation, and whether that is as it should be."""
    path = folder / f"{mutation.script}.py"
    log = folder / "log"
    try:
        path.write_text(mutated(mutation))
    except LookupError as error:
        return f"STALE: {error}", False
    arguments = [mutation.file, "-x", "-k", mutation.tests]
    status = fork(lambda: run_tests(folder, mutation.script, *arguments), log)
    shutil.copy(ROOT / path.name, path)

    if status == -signal.SIGXCPU:
        return f"no end: {mutation.tests}", True
    if status == 1:
        caught = [name for name in failures(log) if name not in failing_anyway]
        if caught:
            return caught[0].split("::")[-1], True
        return "FAILS WITHOUT THE MUTATION", False
    if status == 0:
        return "SURVIVED", False
    return f"ERROR {status}: {log.read_text()[-2000:]}", False


def show(text):
    return " / ".join(line.strip() for line in text.splitlines()) or "(nothing)"


def main(words):
    for name in ("gymnasium", "torch._dynamo", "torch.utils.tensorboard", "tyro"):
        importlib.import_module(name)  # once, for all forks
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # two mutations may have one time and one size
    chosen = [mutation for mutation in MUTATIONS if all(w in " ".join(mutation) for w in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_repository(folder)
        failing_anyway = failures_without_mutation(folder, chosen)
        for test in failing_anyway:
            print(f"fails without a mutation: {test}")
        for mutation in chosen:
            outcome, is_caught = verdict(folder, mutation, failing_anyway)
            survivors += not is_caught
            print(f"{mutation.script}: {show(mutation.old)} -> {show(mutation.new)}")
            print(f"    {outcome}", flush=True)
    print(f"{len(chosen)} mutations, {len(chosen) - survivors} caught, {survivors} not")
    return int(survivors > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
