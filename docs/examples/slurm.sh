#!/bin/bash
# A diffusion set by 16 Slurm jobs of one GPU each: sbatch docs/examples/slurm.sh
# Those that failed, or ran out of time: sbatch --array=3,7 docs/examples/slurm.sh
#SBATCH --job-name=synthgen
#SBATCH --array=0-15
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue

# The number of shares stays 16, whichever of them are asked for.
exec synthgen sd --prompts prompts/imagenet80.txt --n 150000 --batch 32 --out "${OUT:-sd15-imagenet80}" \
    --task-index "$SLURM_ARRAY_TASK_ID" --num-tasks 16
