"""The CUDA renderer's logic, run by numba's simulator of a device in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fractaldb import chaos, cuda
from fractaldb.ifs import IFS, Category, FractalError, weight_table
from fractaldb.render import Style, drawing, orbit_pixels
from fractaldb.search import search

SIMULATE = """
import sys, numpy as np
from fractaldb import cuda
from fractaldb.ifs import IFS
from fractaldb.render import Style

cuda.THREADS = 8  # the simulator runs each as a thread of Python
job = np.load(sys.argv[1])
style = Style(draw=str(job["draw"]), size=int(job["size"]), n_points=int(job["n_points"]))
systems = [IFS(maps=job[f"maps{i}"], probs=job[f"probs{i}"]) for i in range(len(job["seeds"]))]
assert cuda.available()
np.save(sys.argv[2], cuda.render_batch(systems, style, job["seeds"].tolist()))
"""

GASKET = IFS(  # Sierpinski's, off the origin
    maps=np.array([[0.5, 0, 0, 0.5, 1, 1], [0.5, 0, 0, 0.5, 2, 1], [0.5, 0, 0, 0.5, 1, 2]]), probs=np.full(3, 1 / 3)
)
FERN = IFS(  # Barnsley's: one map is nearly an isometry, so the slices join slowly
    maps=np.array(
        [
            [0, 0, 0, 0.16, 0, 0],
            [0.85, 0.04, -0.04, 0.85, 0, 1.6],
            [0.2, -0.26, 0.23, 0.22, 0, 1.6],
            [-0.15, 0.28, 0.26, 0.24, 0, 0.44],
        ]
    ),
    probs=np.array([0.01, 0.85, 0.07, 0.07]),
)
DRAGON = IFS(maps=np.array([[0.5, -0.5, 0.5, 0.5, 0, 0], [-0.5, -0.5, 0.5, -0.5, 1, 0]]), probs=np.full(2, 0.5))
SYSTEMS = {"gasket": GASKET, "fern": FERN, "dragon": DRAGON, "one row": GASKET.weighted(weight_table()[0])}


def simulated(tmp_path: Path, systems: list[IFS], style: Style, seeds: list[int]) -> NDArray[np.uint8]:
    job = {f"maps{i}": ifs.maps for i, ifs in enumerate(systems)} | {
        f"probs{i}": s.probs for i, s in enumerate(systems)
    }
    np.savez(
        tmp_path / "job.npz",
        draw=style.draw,
        size=style.size,
        n_points=style.n_points,
        seeds=np.array(seeds, np.uint64),
        **job,  # type: ignore[arg-type]
    )
    # A device's numbers overflow without a word; the simulator's are numpy scalars, which warn.
    warnings = ["-W", "error", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, *warnings, "-c", SIMULATE, str(tmp_path / "job.npz"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    bits: NDArray[np.uint8] = np.load(tmp_path / "out.npy")
    assert bits.shape == (len(systems), style.size, -(-style.size // 8))
    return np.unpackbits(bits, axis=2)[:, :, : style.size]


def on_cpu(ifs: IFS, style: Style, seed: int) -> NDArray[np.uint8]:
    pixels = orbit_pixels(Category(name="x", ifs=ifs), 2, style)
    masks = chaos.patch_masks(np.uint64(seed), len(pixels)) if style.n_patches > 1 else None
    return drawing(pixels, masks, style)


@pytest.mark.parametrize("size", [32, 45])
def test_point_pictures_are_the_cpus_but_for_rounding_at_pixel_borders(tmp_path: Path, size: int) -> None:
    style = Style(draw="point_gray", size=size, n_points=1003)
    pictures = simulated(tmp_path, list(SYSTEMS.values()), style, [0] * len(SYSTEMS))
    for name, ifs, picture in zip(SYSTEMS, SYSTEMS.values(), pictures, strict=True):
        expected = on_cpu(ifs, style, 0)
        assert np.corrcoef(picture.ravel(), expected.ravel())[0, 1] > 0.99, name
        assert np.count_nonzero(picture != expected) <= 0.01 * expected.sum(), name


def test_patch_pictures_fill_pixels_as_often_as_the_cpus(tmp_path: Path) -> None:
    style = Style(draw="patch_gray", size=24, n_points=250)
    n = 20
    names = ("gasket", "dragon")
    pictures = simulated(tmp_path, [SYSTEMS[name] for name in names for _ in range(n)], style, [*range(n)] * 2)
    for name, device in zip(names, np.split(pictures, 2), strict=True):
        cpu, again = (
            np.array([on_cpu(SYSTEMS[name], style, first + seed) for seed in range(n)]) for first in (0, 2**63)
        )
        assert (device.any(axis=0) == cpu.any(axis=0)).all(), name  # each pixel is set in about half the drawings
        # Two sets of CPU drawings differ by chance, and the device's by as much.
        assert abs(device.mean() - cpu.mean()) < 0.02, name
        shared, chance = (np.corrcoef(a.mean(axis=0).ravel(), cpu.mean(axis=0).ravel())[0, 1] for a in (device, again))
        assert shared > 0.9, (name, shared, chance)
        assert abs(shared - chance) < 0.03, (name, shared, chance)


def test_a_picture_depends_on_its_system_and_seed_alone(tmp_path: Path) -> None:
    style = Style(draw="patch_gray", size=28, n_points=300)
    both = simulated(tmp_path, [GASKET, DRAGON], style, [1, 2])
    (alone,) = simulated(tmp_path, [DRAGON], style, [2])
    (other,) = simulated(tmp_path, [DRAGON], style, [3])
    assert (both[1] == alone).all()
    assert (other != alone).any()


def test_a_system_whose_slices_do_not_join_is_drawn_by_the_cpu(tmp_path: Path) -> None:
    diverging = IFS(maps=np.array([[1.5, 0, 0, 1.1, 1, 1], [1.2, 0.3, 0, 1.2, 0, 1]]), probs=np.full(2, 0.5))
    many_maps = IFS(maps=np.tile(GASKET.maps, (11, 1)), probs=np.full(33, 1 / 33))
    style = Style(draw="point_gray", size=32, n_points=500)
    pictures = simulated(tmp_path, [diverging, GASKET, many_maps], style, [0] * 3)
    for ifs, picture in zip((diverging, GASKET, many_maps), pictures, strict=True):
        assert (picture == on_cpu(ifs, style, 0)).all()


@pytest.mark.skipif(cuda.available(), reason="there is a device")
@pytest.mark.parametrize("draw", ["point_gray", "patch_gray"])
def test_without_a_device_the_cpu_draws(draw: str) -> None:
    style = Style(draw=draw, size=45, n_points=500)
    bits = cuda.render_batch([GASKET, DRAGON], style, [1, 2])
    for ifs, seed, rows in zip((GASKET, DRAGON), (1, 2), bits, strict=True):
        assert (np.unpackbits(rows, axis=1)[:, :45] == on_cpu(ifs, style, seed)).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(FractalError, match="draw type patch_color: the CUDA renderer draws gray pictures"):
        cuda.render_batch([GASKET], Style(draw="patch_color"), [1])
    with pytest.raises(FractalError, match="size 600 px: a point drawing on a CUDA device has at most 572 px"):
        cuda.render_batch([GASKET], Style(draw="point_gray", size=600), [1])
    with pytest.raises(FractalError, match="1 systems and 2 seeds"):
        cuda.render_batch([GASKET], Style(), [1, 2])
    flat = GASKET.weighted(np.array([1, 1, 1, 1, 1, 0.0]))
    with pytest.raises(FractalError, match="number 1, weight row 2: all 50 points share one coordinate"):
        cuda.render_batch([GASKET, flat], Style(n_points=50), [1, 2])


@pytest.mark.skipif(not cuda.available(), reason="no CUDA device")
@pytest.mark.parametrize("draw", ["point_gray", "patch_gray"])
def test_on_a_device_published_categories_fill_pixels_as_on_the_cpu(draw: str) -> None:
    style = Style(draw=draw, size=256, n_points=100_000)
    for category in search(10, seed=1):
        seeds = list(range(8))
        batch = np.unpackbits(cuda.render_batch([category.ifs] * 8, style, seeds), axis=2)[:, :, :256]
        pixels = orbit_pixels(category, 2, style)  # row 2 leaves the system unchanged
        pictures = []
        for seed in seeds:
            masks = chaos.patch_masks(np.uint64(seed), len(pixels)) if style.n_patches > 1 else None
            pictures.append(drawing(pixels, masks, style))
        correlation = np.corrcoef(batch.mean(axis=0).ravel(), np.mean(pictures, axis=0).ravel())[0, 1]
        assert correlation > 0.9, category.name
