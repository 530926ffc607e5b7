"""The claims of the course with the numbers measured here, in English and in Chinese.

`python -m benchmark.report` writes them into docs/notes.md and README.zh-CN.md.
"""

import json

import numpy as np

import bc_flow
from benchmark import compounding, finetune, labels
from benchmark.chain import exact
from benchmark.gaits import OVERLAP
from benchmark.grids import (
    BOTH_DAGGERS,
    CLOSED_SEEDS,
    DAGGERS,
    DRAWN,
    EXPRESSIVE,
    LOCOMOTION,
    METHODS,
    NUM_DEMOS,
    OFFLINE,
    ROAD,
    SCRIPTS,
    Row,
)
from benchmark.run import RESULTS, results_of
from benchmark.tables import (
    demonstration_scores,
    mean_of,
    of_both_experts,
    scores_of,
    success_of,
    table,
)

# The files, the claim and the template of its numbers; then both in Chinese.
CLAIMS = [
    (
        "`bc_mse.py`",
        "Squared loss learns the mean; between two modes it drives into the obstacle",
        "LaneChange: success {lane[bc_mse]}, of the expert 100%",
        "平方损失学到均值；在两个模态之间，它会撞上障碍物",
        "LaneChange：成功率 {lane[bc_mse]}，专家 100%",
    ),
    (
        "`bc_gaussian.py`",
        "A Gaussian has one mode: its mean lies between the sides, and its deviation covers both",
        "LaneChange: success {lane[bc_gaussian]} by its mean, {drawn} by draws",
        "高斯分布只有一个模态：均值落在两侧之间，标准差盖住两侧",
        "LaneChange：用均值行动成功率 {lane[bc_gaussian]}，用采样行动 {drawn}",
    ),
    (
        "`bc_mog.py`, `bc_autoregressive.py`, `bc_diffusion.py`, `bc_flow.py`",
        "Distributions that can hold several modes do",
        "success {lanes} on LaneChange, {slaloms} on Slalom, at least {num_modes} of 8 modes",
        "能表示多个模态的分布确实学到了多个模态",
        "成功率：LaneChange {lanes}，Slalom {slaloms}；8 个模态，每次训练至少出现 {num_modes} 个",
    ),
    (
        "`benchmark/prices.py`, `benchmark/speed.py`",
        "Each has its price: a number of components, rounding to bins, or many steps from noise to "
        "action and no likelihood",
        "an action of Hopper takes {times} times as long as that of squared loss; the nearest bins "
        "are {rounding} away",
        "每种方法各有代价：或者要选分量个数，或者要把动作取整到箱，或者从噪声到动作要走许多步，"
        "而且算不出似然",
        "在 Hopper 上算一个动作的时间是平方损失的 {times} 倍（高斯混合、分箱、扩散、流匹配）；"
        "示范动作到最近的箱的距离为 {rounding}",
    ),
    (
        "`benchmark/chain.py`",
        "Where one mistake leads to the next, mistakes grow with the square of the horizon",
        "a first error in each step with probability 1/1,000, mistakes on average: {chain[10]} in "
        "10 steps, {chain[100]} in 100, {chain[1000]} in 1,000; with recovery 0.01, 0.1 and 1",
        "如果一个错误会引出下一个错误，错误数随回合长度的平方增长",
        "每步出错的概率为 1/1,000。出错后不能恢复时，10 步内平均 {chain[10]} 个错误，"
        "100 步内 {chain[100]} 个，1,000 步内 {chain[1000]} 个；能恢复时为 0.01、0.1 和 1 个",
    ),
    (
        "`benchmark/compounding.py`",
        "A clone errs more on its own states than on the expert's, from which it learns",
        "distance from the expert in the first 100 steps of Humanoid-v4, on its states and on the "
        "policy's own: {errors[1]} (1 demonstration), {errors[4]} (4), {errors[16]} (16), "
        "{errors[64]} (64), {errors[DAgger]} (DAgger)",
        "克隆策略在自己访问到的状态上，误差比在它学习的专家状态上更大",
        "Humanoid-v4 前 100 步与专家动作的距离，在专家的状态上 / 在策略自己的状态上："
        "{errors[1]}（1 条示范），{errors[4]}（4 条），{errors[16]}（16 条），"
        "{errors[64]}（64 条），{errors[DAgger]}（DAgger）",
    ),
    (
        "`bc_mse.py`",
        "A policy's errors lead to states that its demonstrations do not cover",
        "with ten demonstrations (labels): {ten[cloning]}",
        "策略的错误会把它带到示范没有覆盖的状态（协变量偏移）",
        "十条示范（括号内为标签数）：{ten[cloning]}",
    ),
    (
        "`bc_mse.py`",
        "More demonstrations help; how many it takes depends on the task",
        "mean of five tasks / Humanoid-v4: {demos[1]} with 1, {demos[4]} with 4, {demos[10]} with "
        "10, {demos[25]} with 25",
        "更多示范有帮助，需要多少取决于任务",
        "五个任务的平均 / Humanoid-v4：1 条 {demos[1]}，4 条 {demos[4]}，10 条 {demos[10]}，"
        "25 条 {demos[25]}",
    ),
    (
        "`dagger.py`",
        "DAgger fixes this with labels on the states that the policy visits",
        "episodes of {num_episodes} that fall (labels): {falls[DAgger]}; with clones of 64 "
        "demonstrations {falls[64]}",
        "DAgger 让专家给策略自己访问到的状态打标签，从而解决协变量偏移",
        "{num_episodes} 个回合中摔倒的回合数（标签数）：{falls[DAgger]}；"
        "64 条示范的克隆策略：{falls[64]}",
    ),
    (
        "`hg_dagger.py`",
        "HG-DAgger needs fewer labels, where the person takes over in time",
        "CartPole-v1 and the disturbed road, return (labels): {both[hg_dagger]}, of DAgger "
        "{both[dagger]}. One demonstration and nine episodes: {ten[HG-DAgger]}; of DAgger "
        "{ten[DAgger]}",
        "接管及时的话，HG-DAgger 需要的标签更少",
        "回报（标签数），CartPole-v1 和有扰动的道路：HG-DAgger {both[hg_dagger]}；DAgger "
        "{both[dagger]}。一条示范和九个回合：HG-DAgger {ten[HG-DAgger]}；DAgger {ten[DAgger]}",
    ),
    (
        "`dart.py`",
        "Beyond the notes: a disturbed expert shows how to recover, and nobody labels anything",
        "after ten episodes (labels): {ten[DART]}",
        "讲义之外：给专家加扰动，它就会示范如何恢复，不需要任何人额外打标签",
        "十个回合之后（括号内为标签数）：{ten[DART]}",
    ),
    (
        "`bc_flow.py`",
        "Beyond the notes: flow matching holds several modes too",
        "success {slalom[bc_flow]} on Slalom with {inference} steps, of diffusion "
        "{slalom[bc_diffusion]}",
        "讲义之外：流匹配也能表示多个模态",
        "Slalom 上走 {inference} 步：成功率 {slalom[bc_flow]}，扩散 {slalom[bc_diffusion]}",
    ),
    (
        "`benchmark/gaits.py`",
        "Experts are often several; squared loss can suffer only where the state leaves open which "
        "one acts",
        "squared loss / the share of the variance of actions that is left open: {gaits}",
        "专家常常不止一位；只有从状态看不出是哪一位在行动时，平方损失才可能受影响，但也未必",
        "平方损失的回报 / 动作方差中未被状态决定的比例：{gaits}",
    ),
    (
        "`benchmark/finetune.py`",
        "A good clone is a head start for reinforcement learning; one that is already good gets "
        "worse here",
        "return at the start → after {steps} steps of PPO: from scratch {ppo[scratch]}; from the "
        "clone of 1 demonstration {ppo[1]}; of 4 {ppo[4]}",
        "好的克隆策略是强化学习的良好起点；但在这里，本来就很好的克隆策略，训练结束时反而变差",
        "回报：开始时 → PPO 训练 {steps} 步之后。从零开始 {ppo[scratch]}；"
        "从 1 条示范的克隆开始 {ppo[1]}；从 4 条示范的克隆开始 {ppo[4]}",
    ),
]


def success(env_id, row):
    """Of behaviour cloning on a road, in percent."""
    return success_of(results_of(env_id, row, OFFLINE[env_id][1]))


def by_episodes(method, num_episodes):
    """Score and labels on each task, after so many episodes of the expert's time."""
    cells = []
    for env_id in LOCOMOTION:
        found = labels.measured(env_id, method)
        if num_episodes in found:
            num_labels, returns = found[num_episodes]
            cells.append(f"{env_id} {returns.mean():.3f} ({num_labels.mean():,.0f})")
    return "; ".join(cells)


def beside_each_other(script):
    """Of a DAgger, score and labels on the tasks of `BOTH_DAGGERS`."""
    cells = []
    for env_id, rows in BOTH_DAGGERS.items():
        results = results_of(env_id, rows[script], CLOSED_SEEDS)
        if results:
            score = scores_of(env_id, results).mean()
            cells.append(f"{env_id} {score:.3f} ({mean_of(results, 'expert_labels'):,.0f})")
    return "; ".join(cells)


def by_demonstrations(num_demos):
    """Of squared loss: the mean of the five tasks, and Humanoid-v4."""
    tasks = {env_id: demonstration_scores(env_id, "bc_mse", num_demos) for env_id in LOCOMOTION}
    if not all(map(len, tasks.values())):
        return "not run"
    means = {env_id: scores.mean() for env_id, scores in tasks.items()}
    return f"{np.mean(list(means.values())):.2f} / {means['Humanoid-v4']:.2f}"


def falls_of(policy):
    """Of a policy of `compounding`, on each task: how many episodes fall, and the labels."""
    cells = []
    for env_id, rows in compounding.ROWS.items():
        results = results_of(env_id, rows[policy], compounding.SEEDS)
        has_fallen = compounding.fallen(results)[..., -1]
        cells.append(f"{env_id} {has_fallen.sum()} ({mean_of(results, 'expert_labels'):,.0f})")
    return ", ".join(cells)


def early_errors():
    """On the expert's states / on its own, of each policy on Humanoid-v4."""
    found = {}
    for policy, row in compounding.ROWS["Humanoid-v4"].items():
        errors = compounding.early_errors(results_of("Humanoid-v4", row, compounding.SEEDS))
        found[compounding.NUM_DEMOS.get(policy, policy)] = " / ".join(f"{x:.2f}" for x in errors)
    return found


def two_experts():
    cells = []
    for env_id, overlap in json.loads(OVERLAP.read_text()).items():
        scores = of_both_experts(env_id, "bc_mse")
        score = f"{scores.mean():.2f}" if len(scores) else "not run"
        cells.append(f"{env_id} {score} / {overlap['variance_left_open']:.1%}")
    return ", ".join(cells)


def fine_tuned(name):
    cells = []
    for env_id in finetune.ENV_IDS:
        _, curves, _ = finetune.curves_of(env_id, name)
        first, last = curves[:, [0, -1]].mean(axis=0)
        cells.append(f"{env_id} {first:.2f} → {last:.2f}")
    return ", ".join(cells)


def measured():
    """What the templates need."""
    lane = {script: success("LaneChange-v0", Row(script, ROAD)) for script in SCRIPTS}
    slalom = {script: success("Slalom-v0", Row(script, ROAD)) for script in SCRIPTS}
    speed = json.loads((RESULTS / "speed.json").read_text())
    on_slalom = [results_of("Slalom-v0", Row(x, ROAD), OFFLINE["Slalom-v0"][1]) for x in EXPRESSIVE]
    prices = json.loads((RESULTS / "prices.json").read_text())
    return {
        "lane": lane,
        "slalom": slalom,
        "drawn": success("LaneChange-v0", DRAWN),
        "lanes": ", ".join(lane[script] for script in EXPRESSIVE),
        "slaloms": ", ".join(slalom[script] for script in EXPRESSIVE),
        "times": ", ".join(f"{speed[script]['action_to_mse_1']:.1f}" for script in EXPRESSIVE),
        "rounding": f"{prices['distance_to_bins']:.4f}",
        "chain": {T: f"{exact(0.001, T):.3g}" for T in (10, 100, 1000)},
        "errors": early_errors(),
        "both": {script: beside_each_other(script) for script in DAGGERS},
        "ten": {method: by_episodes(method, 10) for method in METHODS},
        "demos": {num_demos: by_demonstrations(num_demos) for num_demos in NUM_DEMOS},
        "falls": {"DAgger": falls_of("DAgger"), 64: falls_of("cloning, 64 demonstrations")},
        "num_episodes": len(compounding.SEEDS) * compounding.NUM_EPISODES,
        "num_modes": min((len(r["modes"]) for results in on_slalom for r in results), default=0),
        "inference": bc_flow.Args().num_inference_steps,
        "gaits": two_experts(),
        "steps": f"{finetune.NUM_STEPS:,}",
        "ppo": {"scratch": fine_tuned("scratch"), 1: fine_tuned("1"), 4: fine_tuned("4")},
    }


def english():
    values = measured()
    lines = [
        f"| {claim} | {files} | {numbers.format_map(values)} |"
        for files, claim, numbers, *_ in CLAIMS
    ]
    return table(["claim", "file", "here (on a scale on which the expert is 1)"], lines)


def chinese():
    values = measured()
    lines = []
    for files, *_, claim, numbers in CLAIMS:
        text = numbers.format_map(values)
        for half, full in {", ": "、", "; ": "；", " (": "（", ")": "）"}.items():
            text = text.replace(half, full)
        lines.append(f"| {claim} | {files.replace(', ', '、')} | {text} |")
    return table(["论断", "文件", "本仓库测得的数字（归一化回报：专家为 1，随机动作为 0）"], lines)
