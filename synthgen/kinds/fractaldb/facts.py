"""What the documents of a set say about its fractals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from markupsafe import Markup

from synthgen.common.markdown import markdown
from synthgen.common.printing import counted
from synthgen.kinds.base import Facts
from synthgen.kinds.fractaldb.content import FractalContent
from synthgen.kinds.licences import apache

if TYPE_CHECKING:
    from synthgen.dataset.plan import Plan

CITATION = """@inproceedings{kataoka2020pretraining,
  title = {Pre-training without Natural Images},
  author = {Kataoka, Hirokatsu and Okayasu, Kazushige and Matsumoto, Asato and Yamagata, Eisuke and
    Yamada, Ryosuke and Inoue, Nakamasa and Nakamura, Akio and Satoh, Yutaka},
  booktitle = {Asian Conference on Computer Vision},
  year = {2020},
  note = {arXiv:2101.08515}
}"""
LIMITS = (
    "Fractals carry no semantics: a class is one iterated function system, its name a number, and its label says"
    " nothing about the world.",
    "Pictures of a class that share an orbit differ in little but patches and mirroring, so the set holds less variety"
    " than its count suggests.",
    "Categories were accepted by how much of the picture they fill, so dense shapes are over-represented among"
    " iterated function systems.",
)
BIASES = (
    "No natural image and no person's choice of subject went in.  What is favoured is what the search of categories"
    " favours: connected, area-filling shapes.",
)
PERSONAL = ("The images contain no personal data: they are drawn from numbers.",)
COLUMNS = {
    "name": "The image's name in the published layout.",
    "weight": "Row of the weight table, 0 to 24.",
    "patch": "Which draw of the 3 x 3 patches.",
    "flip": "0 as drawn, 1 to 3 mirrored.",
    "seed": "Seed of the random numbers that went into the image, in decimal.",
}


def facts(plan: Plan) -> Facts:
    """See ``kinds.base.Facts``."""
    content = plan.content
    assert isinstance(content, FractalContent)
    return Facts(
        title=f"FractalDB fractals of {counted(len(content.categories), 'category', 'categories', form=',')}",
        made_by=f"FractalDB fractals ({content.draw})",
        introduction=markdown(
            "for pre-training image models without natural images.  Each class is an iterated function system, drawn by"
            " the rules of FractalDB ([Kataoka et al., 2020](https://arxiv.org/abs/2101.08515)) at {size} × {size}"
            " pixels, from its numbers alone.",
            size=content.size,
        ),
        tags=("fractal", "fractaldb", "arxiv:2101.08515"),
        language=None,
        source_type="algorithmicMedia",
        licence=apache("the program that drew the images"),
        command=tuple(_command(content, plan)),
        provenance=tuple(_provenance(plan)),
        rows=(
            (
                "drawing",
                markdown(
                    "{draw}, {size} pixels, {points} points, weight step {step}",
                    draw=content.draw,
                    size=content.size,
                    points=f"{content.n_points:,}",
                    step=f"{content.weight_step:g}",
                ),
            ),
            (
                "instances of a category",
                markdown("{layout} (weight rows × patch draws × flips)", layout=" × ".join(map(str, content.layout))),
            ),
            ("seed", markdown("{seed}", seed=content.seed)),
        ),
        columns=COLUMNS,
        biases=BIASES,
        limits=LIMITS,
        personal=PERSONAL,
        citations=(CITATION,),
    )


def _command(content: FractalContent, plan: Plan) -> Iterator[tuple[str, ...]]:
    origin = plan.origin
    yield "synthgen", "fractal", "--out", "DIR"
    yield "--categories", str(origin.get("folder", origin.get("categories", "CATEGORIES")))
    if origin.get("sampling", "published") != "published":
        yield "--sampling", str(origin["sampling"])
    yield "--seed", str(content.seed)
    yield "--draw", content.draw
    yield "--size", str(content.size)
    yield "--points", str(content.n_points)
    yield "--weights", f"{content.weight_step:g}"


def _provenance(plan: Plan) -> Iterator[Markup]:
    if "folder" in plan.origin:
        yield markdown("The categories came from a folder of CSV files; their numbers are in `plan.json`.")
    elif "categories" not in plan.origin:
        yield markdown("Where the categories came from is not on record; their numbers are in `plan.json`.")
