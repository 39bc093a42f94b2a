"""A fractal set by an array of jobs: python docs/examples/submitit_fractals.py OUT [OPTION ...] [--cluster local].

Options are those of ``synthgen fractal``.  On Slurm by default; with ``--cluster local`` in processes here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import submitit

TASKS = 16


class Share:
    """One of the equal shares of a set; a job that is pre-empted is queued again."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def __call__(self, index: int) -> None:
        """Do the shards of a share that are not done."""
        program = str(Path(sys.executable).with_name("synthgen"))
        share = ("--task-index", str(index), "--num-tasks", str(TASKS))
        subprocess.run([program, "fractal", *self.options, *share], check=True)

    def checkpoint(self, index: int) -> submitit.helpers.DelayedSubmission:
        """What submitit queues in place of a pre-empted job: the same, as finished shards are kept."""
        return submitit.helpers.DelayedSubmission(self, index)


def main() -> None:
    """Submit the array and wait for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--cluster")
    asked, options = parser.parse_known_args()
    executor = submitit.AutoExecutor(folder="submitit-logs/%j", cluster=asked.cluster)
    executor.update_parameters(name="fractals", timeout_min=120, cpus_per_task=8, slurm_array_parallelism=TASKS)
    jobs = executor.map_array(Share("--out", asked.out, *options), range(TASKS))
    for job in jobs:
        job.result()
    print(f"{asked.out}: {len(jobs)} jobs done")


if __name__ == "__main__":
    main()
