"""What the reference describes: each record with its heading and the import path of what defines it."""

from __future__ import annotations

import re
from dataclasses import dataclass

SETS, RUNS = "synthgen.dataset", "synthgen_evaluate"
FRACTALS, DIFFUSION = "synthgen.kinds.fractaldb", "synthgen.kinds.diffusion"
ANALYSIS = f"{RUNS}.analysis"
COMPARISON = "`comparison` in `comparison.json`."
ARMS, SELECT = f"{RUNS}.design.arms", f"{RUNS}.design.select"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One record: its heading, what is said before its table, and where it is defined."""

    title: str
    path: str  # of a class, or of functions that write its keys
    words: str = ""  # what stands before the docstring
    also: tuple[str, ...] = ()  # further functions, or tables of meanings
    example: str = ""  # of a record without a class: one that is stored, which has the order and the types of its keys
    check: str = ""  # name of a function below that gives the problems of a value
    without: tuple[str, ...] = ()  # fields that are not stored

    @property
    def anchor(self) -> str:
        """As GitHub makes it from the heading."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


SUITE = (
    Section(title="Suite", path=f"{RUNS}.design.suite.Suite", words="The keys of the file itself.", check="suite"),
    Section(title="Task", path=f"{RUNS}.tasks.spec.TaskSpec", words="`[task]`."),
    Section(
        title="Recipe",
        path=f"{RUNS}.recipe.Recipe",
        words="`[pretrain]` and `[finetune]`; `[pretrain_for.ARCHITECTURE]` and an arm's `pretrain` change some keys.",
        check="recipe",
    ),
    Section(
        title="Arm",
        path=f"{ARMS}.ArmSpec",
        words="`[[arms]]`.  The keys of the following sections stand in the same table.",
        check="arm",
    ),
    Section(title="Arm with external weights", path=f"{ARMS}.External", check="arm"),
    Section(title="Arm with a source", path=f"{ARMS}.FromSource", check="arm"),
    Section(title="Arm with a mixture", path=f"{ARMS}.FromMixture", check="arm"),
    Section(title="Number of images", path=f"{SELECT}.Quantity", words="With a source.", check="arm"),
    Section(title="Group of classes", path=f"{SELECT}.Group", words="With a source.", check="arm"),
    Section(title="Diversity", path=f"{SELECT}.Diversity", words="With a source.", check="arm"),
    Section(title="Fewer subclasses", path=f"{SELECT}.Subclasses", words="With a source.", check="arm"),
    Section(
        title="Labels of a level",
        path=f"{RUNS}.design.labelling.LevelLabels",
        words="With a source or a mixture, but not with subclasses.",
    ),
    Section(
        title="Control of a level",
        path=f"{RUNS}.design.labelling.ControlLabels",
        words="With a source or a mixture, but not with subclasses.",
    ),
    Section(title="Source: folder", path=f"{RUNS}.design.sources.FolderSource"),
    Section(title="Source: shards", path=f"{RUNS}.design.sources.ShardSource"),
    Section(title="Source: fractals", path=f"{RUNS}.design.sources.FractalSource", check="fractals"),
    Section(title="Part of a mixture", path=f"{ARMS}.Part"),
    Section(title="Subclasses", path=f"{SELECT}.Thinning", check="subclasses"),
    Section(title="Judgement", path=f"{RUNS}.judgement.Judgement", words="`[judgement]`."),
    Section(title="Cost", path=f"{RUNS}.design.cost.Cost", words="`[cost]`.", check="cost"),
)
RECORDS = (
    Section(title="plan.json", path=f"{SETS}.plan._PlanFile"),
    Section(title="Segment", path=f"{SETS}.plan.Segment"),
    Section(title="Content of fractals", path=f"{FRACTALS}.content.FractalContent"),
    Section(title="Category", path=f"{FRACTALS}.content.CategoryRecord"),
    Section(title="Content of diffusion images", path=f"{DIFFUSION}.content.DiffusionContent"),
    Section(title="Prompts", path=f"{DIFFUSION}.content.PromptRecord"),
    Section(title="Classes", path=f"{DIFFUSION}.content.ClassRecord"),
    Section(title="Model", path=f"{DIFFUSION}.content.ModelRecord"),
    Section(title="Sampling", path=f"{DIFFUSION}.content.Sampling"),
    Section(title="Completion record", path=f"{SETS}.shard.Shard", words="`data/<shard>.json`, written last."),
    Section(title="Claim", path="synthgen.engines.claims.Claim", words="`claims/<shard>.json`, while it is drawn."),
    Section(
        title="manifest.json",
        path=f"{SETS}.manifest.summary_of",
        words="Written when a set is complete, after `SHA256SUMS`, which has the checksum of each of its files.",
        example="fractal-finished/manifest.json",
    ),
    Section(
        title="Sample of a fractal set",
        example="fractal-finished/metadata/fractal-train-000000.parquet",
        path=f"{FRACTALS}.render.render",
        words="`<key>.json` in a shard, and the columns of `metadata/<shard>.parquet`.",
        also=(f"{SETS}.shard.write_tar", "synthgen.publishing.croissant.DESCRIPTIONS", f"{FRACTALS}.facts.COLUMNS"),
    ),
    Section(
        title="Sample of a diffusion set",
        example="diffusion-finished/metadata/sd-train-000000.parquet",
        path=f"{DIFFUSION}.render.DiffusionRenderer._item",
        words="`<key>.json` in a shard, and the columns of `metadata/<shard>.parquet`.",
        also=(
            f"{DIFFUSION}.content.DiffusionContent.settings",
            f"{SETS}.shard.write_tar",
            "synthgen.publishing.croissant.DESCRIPTIONS",
            f"{DIFFUSION}.facts.COLUMNS",
        ),
    ),
    Section(title="config.json of a run", path=f"{RUNS}.runs.RunConfig", words="`RUNS/<digest>/config.json`."),
    Section(title="state.json of a run", path=f"{RUNS}.runs.State", words="In `RUNS/<digest>`."),
    Section(title="log.jsonl of a run", path=f"{RUNS}.training.journal.Row", words="One per epoch."),
    Section(
        title="Predictions",
        path=f"{RUNS}.predictions.Predictions",
        words="The columns of `RUNS/<digest>/predictions/<epoch>-<split>.parquet`, one row per image.",
    ),
    Section(title="Record of a suite", path=f"{RUNS}.runs.SuiteRecord", words="In `RUNS`."),
    Section(title="Arm of a suite's record", path=f"{RUNS}.runs.Arm"),
    Section(title="Member of a suite's record", path=f"{RUNS}.runs.Member"),
    Section(
        title="comparison.json",
        path=f"{RUNS}.reporting.report.write_report",
        words="In the report's folder.  Numbers that do not exist are null.",
        example="study-comparison.json",
        also=(f"{RUNS}.reporting.report._provenance",),
    ),
    Section(title="Comparison", path=f"{ANALYSIS}.results.Comparison", words=COMPARISON, without=("words",)),
)
PROMPTS = Section(title="Prompt files", path=f"{DIFFUSION}.prompts.PromptSet")
PUBLISHED = f"{ANALYSIS}.published"
