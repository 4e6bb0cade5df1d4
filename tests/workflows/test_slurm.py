"""The script for SLURM, run with substitutes for its programs; the example files of other clusters."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from speechssl.cli.main import VERBS, main
from speechssl.config import LaunchConfig
from speechssl.core.errors import ConfigError
from speechssl.workflows.slurm import sbatch_script

DOCS = Path(__file__).parents[2] / "docs" / "clusters"

SRUN = """#!/bin/bash
echo "srun $1" >> "$LOG"
shift
SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$LOG"
[ "$1" = show ] && printf 'node-a\\nnode-b\\n'
[ "$1" = show ] || exit "${REQUEUE:-0}"
"""
PYTHON = """#!/bin/bash
echo "python $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT" >> "$LOG"
printf '<%s>' "$@" >> "$LOG"
codes=($CODES)
exit "${codes[${SLURM_RESTART_COUNT:-0}]}"
"""


class Cluster:
    """Runs a script as SLURM would, again when it was requeued."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("my python", PYTHON)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def run(self, command: list[str], cfg: LaunchConfig, codes: str, **variables: str) -> int:
        script = self.folder / "job.sh"
        script.write_text(sbatch_script(command, cfg, python=str(self.folder / "my python")))
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
        env = os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "LOG": str(self.log), "CODES": codes}
        env |= {"SLURM_JOB_ID": "20007", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_PER_TASK": "8", **variables}
        for count in range(9):
            done = subprocess.run(["bash", str(script)], env=env | {"SLURM_RESTART_COUNT": str(count)}, check=False)
            if self.log.read_text().count("requeue") <= count or variables.get("REQUEUE"):
                return done.returncode
        raise AssertionError("requeued for ever")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_a_stopped_run_is_started_again(cluster: Cluster) -> None:
    assert cluster.run(["pretrain", "my $conf.toml", "--seed", "3"], LaunchConfig(gpus=8), "75 75 0") == 0
    lines = cluster.log.read_text().split("scontrol show hostnames node-[a-b]\n")[1:]
    assert len(lines) == 3
    start = "srun --kill-on-bad-exit=0\npython 3 1 4 node-a 20007\n<-m><speechssl><pretrain><my $conf.toml><--seed><3>"
    assert lines == [f"{start}scontrol requeue 20007\n"] * 2 + [start]


@pytest.mark.parametrize(
    ("codes", "restarts", "variables", "code"),
    [("3", 100, {}, 3), ("75 75 75", 2, {}, 75), ("75", 100, {"REQUEUE": "1"}, 75)],
    ids=["an error", "too often", "not allowed to requeue"],
)
def test_what_is_not_started_again(cluster: Cluster, codes, restarts, variables, code) -> None:
    assert cluster.run(["run", "audio"], LaunchConfig(restarts=restarts), codes, **variables) == code


def test_an_array_makes_parts(cluster: Cluster) -> None:
    command = ["shard", "corpus", "my shards"]
    assert cluster.run(command, LaunchConfig(parts=4), "0", SLURM_ARRAY_TASK_ID="2") == 0
    assert "<shard><corpus><my shards><--part><2/4>" in cluster.log.read_text()
    script = sbatch_script(command, LaunchConfig(parts=4))
    assert "#SBATCH --array=1-4\n" in script and "--output=%x-%A-%a.log" in script


def test_options_of_the_job() -> None:
    cfg = LaunchConfig(
        nodes=2, gpus=4, cpus=6, memory="64G", time="1:00:00", partition="gpu", account="me", name="n", notice=60,
        options=("constraint=a100", "exclusive"),
    )  # fmt: skip
    script = sbatch_script(["finetune", "c.toml"], cfg)
    head = script.partition("\n\n")[0].splitlines()
    assert head[0] == "#!/bin/bash"
    assert set(head[1:]) == {
        f"#SBATCH --{option}"
        for option in (
            "job-name=n", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=6", "mem=64G",
            "time=1:00:00", "partition=gpu", "account=me", "signal=TERM@60", "output=%x-%j.log", "open-mode=append",
            "requeue", "constraint=a100", "exclusive",
        )
    }  # fmt: skip


def test_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="parts = N is for shard"):
        sbatch_script(["pretrain"], LaunchConfig(parts=2))
    with pytest.raises(ConfigError, match="parts = N is for shard"):
        sbatch_script(["shard", "a", "b", "--part", "1/2"], LaunchConfig(parts=2))
    with pytest.raises(ConfigError, match="manifest runs in one process"):
        sbatch_script(["manifest", "a", "b"], LaunchConfig(nodes=2))
    with pytest.raises(ConfigError, match="nodes = 0"):
        LaunchConfig(nodes=0)
    with pytest.raises(ConfigError, match="line break"):
        LaunchConfig(account="a\nb")
    for words in (["launch"], ["launch", "--nodes", "2"], ["launch", "--", "pretrian"], ["launch", "--", "launch"]):
        assert main(words) == 1
        assert "usage: speechssl launch" in capsys.readouterr().err


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my job.sh"
    assert main(["launch", "--slurm", str(path), "--parts", "3", "--", "shard", "corpus", "my shards"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"sbatch '{path}'", "when all its tasks have ended: speechssl shard corpus 'my shards'",
    ]  # fmt: skip
    assert "#SBATCH --array=1-3" in path.read_text()
    assert main(["launch", "--", "pretrain", "--help"]) == 0
    assert "speechssl pretrain --help" in capsys.readouterr().out


def strings(value: object) -> list[str]:
    """Return the strings of a document, however deep."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    return [text for each in value for text in strings(each)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_files(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    (script,) = [text for document in documents for text in strings(document) if "torchrun" in text]
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0
    command = " ".join(script.replace("\\\n", " ").split())
    (verb,) = re.findall(r"-m speechssl (\w+)", command)
    assert verb in VERBS
    assert re.search(r"torchrun .*--nproc-per-node \S+ .*--max-restarts \d+ .*-m speechssl", command)
    if path.stem == "kubernetes":
        service, job = documents
        pod = job["spec"]["template"]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["subdomain"] == service["metadata"]["name"]
        assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500" in command
        assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
        mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
