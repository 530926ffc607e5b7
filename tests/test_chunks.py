"""What bc_diffusion.py and bc_flow.py share: chunks, units and the average of the weights."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc_diffusion
import bc_flow

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=[bc_diffusion, bc_flow], ids=lambda module: module.__name__)
def module(request):
    return request.param


def make(module, act_dim=2, **arguments):
    space = gym.spaces.Box(-1, 1, (act_dim,), np.float32)
    return module.Policy(OBS_SPACE, space, hidden_dim=16, **arguments)


def test_the_range_of_the_demonstrated_actions_becomes_minus_one_to_one(module):
    policy = make(module, horizon=2)
    chunks = torch.tensor([[1.0, -3.0, 5.0, -1.0], [2.0, -2.0, 4.0, -2.0]])  # horizon * act_dim
    policy.set_statistics(torch.randn(2, 3), chunks)
    assert policy.action_centre.tolist() == [3.0, -2.0]
    assert policy.action_scale.tolist() == [2.0, 1.0]


def test_a_constant_action_is_only_centred(module):
    policy = make(module)
    policy.set_statistics(torch.randn(2, 3), torch.tensor([[1.0, 7.0], [2.0, 7.0]]))
    assert policy.action_centre.tolist() == [1.5, 7.0]
    assert policy.action_scale.tolist() == [0.5, 1.0]


def test_with_fine_modes_the_network_sees_five_frequencies_of_the_noised_action(module):
    policy = make(module, fine_modes=True)
    seen = []
    policy.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = 2 * torch.rand(3, 2) - 1
    t = torch.tensor([1, 50, 7]) if module is bc_diffusion else torch.rand(3, 1)
    policy.predict(policy.net, torch.zeros(3, 3), x, t)
    columns = seen[0].T
    for d in range(2):
        for waves in (1, 2, 4, 8, 16):  # in the range of the actions, from -1 to 1
            for feature in (
                torch.sin(math.pi * waves * x[:, d]),
                torch.cos(math.pi * waves * x[:, d]),
            ):
                assert (columns - feature).abs().amax(1).min() < 1e-4
    time_columns = 2 if module is bc_diffusion else 1
    assert len(columns) == 3 + 2 * (1 + 2 * 5) + time_columns


def test_the_average_starts_as_the_weights_and_follows_them_ever_more_slowly(module):
    policy = make(module, ema_decay=0.3)
    pairs = list(zip(policy.net.parameters(), policy.ema_net.parameters(), strict=True))
    for parameter, average in pairs:
        assert torch.equal(parameter, average)
        assert not average.requires_grad

    expected = [average.clone() for _, average in pairs]
    for n in range(1, 6):
        for parameter, _ in pairs:
            parameter.data.normal_()
        policy.update_average()
        decay = min(0.3, (1 + n) / (10 + n))  # 0.18, 0.25, then 0.3
        for i, (parameter, average) in enumerate(pairs):
            expected[i] = decay * expected[i] + (1 - decay) * parameter
            torch.testing.assert_close(average, expected[i])


def test_the_average_acts_and_the_weights_themselves_learn(module):
    policy = make(module)
    seen = []
    policy.net.register_forward_hook(lambda *_: seen.append("net"))
    policy.ema_net.register_forward_hook(lambda *_: seen.append("average"))
    policy.act(np.zeros((1, 3)))
    assert set(seen) == {"average"}
    seen.clear()
    policy.loss(torch.zeros(4, 3), torch.zeros(4, 2))
    assert seen == ["net"]


def test_samples_are_in_the_environments_units(module):
    policy = make(module, num_inference_steps=1)
    actions = torch.rand(100, 2) * torch.tensor([4.0, 0.2]) + torch.tensor([3.0, -5.0])
    policy.set_statistics(torch.zeros(100, 3), actions)
    policy.predict = lambda net, obs, x, t: torch.tensor([0.5, -1.0]).expand_as(x)
    out = policy.sample(torch.zeros(1000, 3)).flatten(1)
    span = actions.amax(0) - actions.amin(0)
    expected = actions.amin(0) + span * torch.tensor([0.75, 0.0])
    torch.testing.assert_close(out, expected.expand_as(out))


# --- Chunks ---


def counting_policy(module):
    """A policy that executes three of the four actions of each chunk; chunk k holds k.0 to k.3."""
    policy = make(module, act_dim=1, horizon=4, action_horizon=3)
    draws = []

    def sample(obs):
        draws.append(len(obs))
        chunk = (len(draws) + 0.1 * torch.arange(4.0)) / 10
        return chunk.view(1, 4, 1).expand(len(obs), -1, -1)

    policy.sample = sample
    return policy, draws


def test_a_chunk_is_executed_in_order_before_the_next_is_drawn(module):
    policy, draws = counting_policy(module)
    taken = [(10 * policy.act(np.zeros((2, 3)))).tolist() for _ in range(5)]
    expected = [[[k], [k]] for k in (1.0, 1.1, 1.2, 2.0, 2.1)]
    np.testing.assert_allclose(taken, expected, atol=1e-5)
    assert draws == [2, 2]


def test_episodes_begin_with_a_chunk_of_their_own(module):
    policy, _ = counting_policy(module)
    args = module.Args(env_id="Pendulum-v1", max_episode_steps=4)
    envs = module.make_envs(args, 2)
    begin = policy.queue.clear
    policy.act(np.zeros((5, 3)))  # what is left of this chunk, of another size, is dropped
    episodes = module.rollout(envs, policy.act, 4, seed=0, at_start=begin)
    firsts = [10 * episode.actions[0, 0] for episode in episodes]
    np.testing.assert_allclose(firsts, [2.0, 2.0, 4.0, 4.0], atol=1e-5)
    np.testing.assert_allclose(10 * episodes[2].actions[:, 0], [4.0, 4.1, 4.2, 5.0], atol=1e-5)


def test_the_evaluation_clears_the_queue_where_episodes_begin(module):
    policy, _ = counting_policy(module)
    args = module.Args(env_id="Pendulum-v1", max_episode_steps=4)
    envs = module.make_envs(args, 2)
    first = module.evaluate(args, envs, policy, 2)
    assert len(policy.queue) > 0
    policy.sample = counting_policy(module)[0].sample
    assert module.evaluate(args, envs, policy, 2) == first


def test_a_chunk_of_actions_has_its_place_in_each_dimension(module):
    policy = make(module, act_dim=2, horizon=3, action_horizon=3, num_inference_steps=1)
    flat = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # action by action
    policy.predict = lambda net, obs, x, t: flat.expand(len(obs), -1)
    taken = [policy.act(np.zeros((1, 3)))[0].tolist() for _ in range(3)]
    np.testing.assert_allclose(taken, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], atol=1e-6)


def episode(module, length, first):
    """Observation t of an episode is first + t, and its action -(first + t), twice."""
    obs = first + np.arange(length, dtype=float)[:, None]
    actions = -np.repeat(obs, 2, axis=1)
    return module.Episode(obs, actions, np.zeros(length), {})


@pytest.mark.parametrize("horizon", [1, 3])
def test_demonstrations_hold_the_actions_ahead_and_repeat_the_last(module, horizon):
    episodes = [episode(module, 4, 10), episode(module, 1, 20), episode(module, 2, 30)]
    obs, actions = module.to_tensors(episodes, horizon, "cpu")
    assert obs.flatten().tolist() == [10, 11, 12, 13, 20, 30, 31]
    assert actions.shape == (7, 2 * horizon)
    lasts = [13, 13, 13, 13, 20, 31, 31]
    for t, last in enumerate(lasts):
        for h in range(horizon):
            expected = -min(obs[t, 0].item() + h, last)
            assert actions[t, 2 * h : 2 * h + 2].tolist() == [expected, expected]
