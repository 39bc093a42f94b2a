"""The built-in diffusion model: its weights, and how they were trained."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"  # in diffusers' layout
