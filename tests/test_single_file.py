"""Each script copied alone into an empty folder, with an expert of three lines, trains and acts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPORT = "from experts import load_expert\n"
EXPERT = """
def load_expert(*_):
    \"\"\"Brake the pendulum, or push the cart under the pole.\"\"\"
    return lambda obs: {}
"""
ACTIONS = {
    "Pendulum-v1": "np.clip(-obs[:, 2:], -2, 2)",
    "CartPole-v1": "(obs[:, 2] + obs[:, 3] > 0).astype(int)",
}
FAST = ["--num-envs=2", "--num-demos=2", "--eval-episodes=2", "--hidden-dim=16", "--num-updates=50"]
FAST += ["--max-episode-steps=20"]
ROUNDS = ["--num-rounds=1", "--episodes-per-round=2"]
CASES = [(path.stem, "Pendulum-v1") for path in sorted(ROOT.glob("*.py"))]
CASES += [(script, "CartPole-v1") for script in ("bc_autoregressive", "dagger", "hg_dagger")]

# Trains in each folder, and then evaluates what was saved, in a process for each folder. They are
# forked from one that has imported the libraries, which takes longer than anything else here.
PROGRAM = """
import json, os, runpy, shutil, signal, sys
from pathlib import Path
import gymnasium.utils.save_video, safetensors.torch, torch._dynamo, torch.utils.tensorboard, tyro

for folder, script, flags in json.loads(sys.argv[1]):
    process = os.fork()
    if process == 0:
        signal.alarm(60)  # a run that hangs ends here
        os.chdir(folder)
        os.dup2(os.open("../stdout", os.O_CREAT | os.O_WRONLY), 1)
        os.dup2(os.open("../stderr", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = [script, "--run-dir=../trained", *flags]
        runpy.run_path(script, run_name="__main__")
        (run,) = Path("../trained").iterdir()
        saved = f"--checkpoint={run}/policy.safetensors"
        if "dagger" in script:  # its last round is done, so that resuming only evaluates
            ignore = shutil.ignore_patterns("results.json", "policy.safetensors")
            shutil.copytree("../trained", "../evaluated", ignore=ignore)
            saved = f"--resume=../evaluated/{run.name}"
        sys.argv = [script, "--run-dir=../evaluated", saved, *flags]
        runpy.run_path(script, run_name="__main__")
        sys.stdout.flush()
        os._exit(0)  # to take the interpreter apart would take longer than the runs
    os.waitpid(process, 0)
"""


def copy_alone(script, env_id, folder):
    """The script without its imports from the project, which an expert of three lines replaces."""
    text = (ROOT / f"{script}.py").read_text()
    assert text.count(IMPORT) == 1
    text = text.replace(IMPORT, EXPERT.format(ACTIONS[env_id]))
    text = text.replace("from experts.human import HumanExpert\n", "HumanExpert = None\n")
    assert "from experts" not in text
    (folder / f"{script}.py").write_text(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """For each case the folder around the one in which its script ran."""
    outer = {}
    runs = []
    for script, env_id in CASES:
        outer[script, env_id] = tmp_path_factory.mktemp(script)
        folder = outer[script, env_id] / "alone"
        folder.mkdir()
        copy_alone(script, env_id, folder)
        flags = [f"--env-id={env_id}", *FAST, *(ROUNDS if "dagger" in script else [])]
        runs.append((str(folder), f"{script}.py", flags))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", PROGRAM, json.dumps(runs)]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(command, cwd=elsewhere, env=environment, check=True, timeout=300)
    return outer


def results_in(folder):
    (path,) = folder.glob("*/results.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("script, env_id", CASES)
def test_a_script_alone_trains_and_what_it_saves_acts_as_before(script, env_id, folders):
    folder = folders[script, env_id]
    assert (folder / "stderr").read_text() == ""
    lines = (folder / "stdout").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["return", "return"]
    assert [path.name for path in (folder / "alone").iterdir()] == [f"{script}.py"]

    trained = results_in(folder / "trained")
    assert trained["algorithm"] == script
    assert trained["expert_labels"] > 0
    assert len(trained["eval_returns"]) == 2
    assert results_in(folder / "evaluated")["eval_returns"] == trained["eval_returns"]
