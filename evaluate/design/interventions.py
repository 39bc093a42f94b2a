"""Pure selections over labels: which images of a source a model is pre-trained on.

Each chooses images; ``labelling`` gives chosen images other labels.  So labels can vary over the same images,
and any choice can be relabelled.

A seed stands for one order of turns among a source's classes and one order of the images in each
class.  Every choice takes classes and images from the front of these orders: of two choices with one
seed, the one that takes more of a class or of a group contains the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from synthgen.common.seeds import derive_seed

from ..errors import EvaluateError
from .labelling import granularity
from .selection import Labelled, Selection
from .taxonomy import Taxonomy, parse_group


def everything(labels: NDArray[np.int64], class_names: tuple[str, ...]) -> Selection:
    """All images of a source."""
    return Selection(
        indices=np.arange(len(labels)), labels=labels, class_names=class_names, rule=f"all {len(labels)} images"
    )


def quantity(labels: NDArray[np.int64], class_names: tuple[str, ...], n: int, *, seed: int) -> Selection:
    """``n`` images, balanced over the classes to within one image, in the source's order.

    For one seed the selections are nested: a smaller one is part of a larger one.  The images of each
    class are put in an order, and the classes take turns, in an order too.  Raises
    EvaluateError if a class has too few images for its share.
    """
    indices = _balanced(labels, class_names, _turns(len(class_names), seed), n, seed=seed)
    return Selection(
        indices=indices,
        labels=labels[indices],
        class_names=class_names,
        rule=f"{n} images balanced over {len(class_names)} classes, seed {seed}",
    )


def semantics(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    taxonomy: Taxonomy,
    group: str,
    *,
    n_classes: int | None = None,
    n: int | None = None,
    seed: int,
) -> Selection:
    """The images of a group of classes: ``animals``, ``objects``, ``LEVEL = LABEL`` or ``LEVEL != LABEL``.

    ``n_classes`` takes the first classes of the group in the seed's order of turns, and ``n`` as many
    images, balanced over the classes to within one; both are all by default.
    """
    members = _members(labels, class_names, taxonomy, group, seed)
    needed = 2 if n_classes is None else n_classes
    if not 2 <= needed <= len(members):
        raise EvaluateError(
            f"group {group!r} has {len(members)} of the source's {len(class_names)} classes; {needed} are asked for,"
            " and 2 is the minimum"
        )
    classes = members[:n_classes]
    if n is None:
        indices = np.flatnonzero(np.isin(labels, classes))
        rule = f"all {len(indices)} images of the"
    else:
        indices = _balanced(labels, class_names, classes, n, seed=seed)
        rule = f"{n} images balanced over the"
    rule += "" if n_classes is None else f" first {n_classes} of the"
    rule += f" {len(members)} classes with level {parse_group(group)} in {taxonomy}"
    rule += "" if n is None and n_classes is None else f", in the order of seed {seed}"
    return _of(classes, indices, labels, class_names, rule=rule)


def _members(
    labels: NDArray[np.int64], class_names: tuple[str, ...], taxonomy: Taxonomy, group: str, seed: int
) -> list[int]:
    """The classes of a group that have images, in the seed's order of turns."""
    inside = taxonomy.inside(parse_group(group), class_names) & (np.bincount(labels, minlength=len(class_names)) > 0)
    return [label for label in _turns(len(class_names), seed) if inside[label]]


def diversity(labels: NDArray[np.int64], class_names: tuple[str, ...], *, n: int, factor: int, seed: int) -> Selection:
    """``n`` images of ``factor`` times fewer classes: each class has ``factor`` times the images.

    The classes are the first 1 / ``factor`` of all, rounded down, in the seed's order of turns: those
    of a larger factor are among those of a smaller one, and factor 1 is ``quantity``.  The images are
    balanced over the classes to within one.
    """
    n_classes = len(class_names) // factor if factor >= 1 else 0
    if n_classes < 2:
        raise EvaluateError(
            f"diversity = {factor} of {len(class_names)} classes: ask for 1 to {len(class_names) // 2},"
            " which leaves 2 classes or more"
        )
    classes = _turns(len(class_names), seed)[:n_classes]
    indices = _balanced(labels, class_names, classes, n, seed=seed)
    rule = f"{n} images balanced over the first {n_classes} of {len(class_names)} classes, in the order of seed {seed}"
    return _of(classes, indices, labels, class_names, rule=rule)


def subclasses(
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    taxonomy: Taxonomy,
    level: str,
    *,
    n: int,
    factor: int,
    least: int = 1,
    seed: int,
) -> Selection:
    """``n`` images labelled by a level of a taxonomy, from ``factor`` times fewer classes under each label.

    Every label of the level stays, with the first 1 / ``factor`` of its classes, rounded up, in the
    seed's order of turns; those of a larger factor are among those of a smaller one.  The images are
    balanced over the labels to within one, and over the classes under each label to within one.
    ``least`` leaves out the labels of fewer classes: a label of one class has none to spare, and
    limits the images of all labels.
    """
    if factor < 1:
        raise EvaluateError(f"subclasses: factor {factor}; ask for 1 or more")
    above = taxonomy.at(level, class_names)
    under: dict[str, list[int]] = {}  # by label, its classes; both in the order of turns
    for label in _turns(len(class_names), seed):
        under.setdefault(above[label], []).append(label)
    kept = {name: classes[: -(-len(classes) // factor)] for name, classes in under.items() if len(classes) >= least}
    if len(kept) < 2:
        raise EvaluateError(
            f"subclasses: {len(kept)} of {len(under)} labels at level {level} have {least} classes or more; 2 are the"
            " minimum"
        )
    wanted: dict[int, int] = {}
    for (name, classes), share in zip(kept.items(), _even(n, len(kept)), strict=True):
        if share < len(classes):
            raise EvaluateError(
                f"n = {n} images of {len(kept)} labels at level {level}: {share} of {name}, of which {len(classes)}"
                " classes are kept; ask for more images or a larger factor"
            )
        wanted |= dict(zip(classes, _even(share, len(classes)), strict=True))
    indices = _draw(labels, class_names, wanted, n, seed=seed)
    rule = (
        f"{n} images balanced over the {len(kept)} labels with {least} or more classes and over the first 1/{factor},"
        f" rounded up, of the classes under each ({len(wanted)} of {len(class_names)}), in the order of seed {seed}"
    )
    return granularity(_of(list(wanted), indices, labels, class_names, rule=rule), taxonomy, level)


def mixture(shares: Mapping[str, float], n: int) -> dict[str, int]:
    """How many of ``n`` images come from each source, by largest remainder.

    Each source gets its share of ``n`` rounded down; the remaining images go one each to the sources with the
    largest remainders, equal ones in alphabetical order.  Raises EvaluateError if the shares do not sum to
    one within 1e-9 or if a source gets nothing.
    """
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise EvaluateError(f"shares: {name} = {share}; must be above 0 and at most 1")
    exact = {name: Fraction(repr(float(share))) for name, share in shares.items()}  # 0.1 is exactly a tenth
    total = sum(exact.values(), Fraction())
    if abs(total - 1) > Fraction(1, 10**9):
        raise EvaluateError(
            f"shares: {' + '.join(map(str, shares.values()))} is {float(total):.10g}; they must sum to 1"
        )
    quotas = {name: n * share / total for name, share in exact.items()}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count < 1:
            raise EvaluateError(f"shares: {name} = {shares[name]} of {n} images is none; ask for more images")
    return counts


def mix(sources: Sequence[Labelled], counts: Sequence[int], *, seed: int) -> Selection:
    """The given number of images of each source, balanced over its classes; classes of the same name are one class.

    The positions are those in the joined sources, in order.
    """
    names = tuple(dict.fromkeys(name for source in sources for name in source.class_names))
    indices, labels, rules, offset = [], [], [], 0
    for count, source in zip(counts, sources, strict=True):
        part = quantity(source.labels, source.class_names, count, seed=seed)
        own = np.array([names.index(name) for name in part.class_names])
        indices.append(part.indices + offset)
        labels.append(own[part.labels])
        rules.append(part.rule)
        offset += len(source.labels)
    return Selection(
        indices=np.concatenate(indices), labels=np.concatenate(labels), class_names=names, rule=" + ".join(rules)
    )


def _turns(n_classes: int, seed: int) -> list[int]:
    """The classes in the seed's order of turns."""
    order: list[int] = np.random.RandomState(derive_seed(seed, "classes") % 2**32).permutation(n_classes).tolist()
    return order


def _even(n: int, parts: int) -> list[int]:
    """``n`` in parts equal to within one; the first are the larger ones."""
    share, over = divmod(n, parts)
    return [share + (part < over) for part in range(parts)]


def _balanced(
    labels: NDArray[np.int64], class_names: tuple[str, ...], classes: Sequence[int], n: int, *, seed: int
) -> NDArray[np.int64]:
    """Positions of ``n`` images balanced over classes, given in the order of turns."""
    available = int(np.isin(labels, classes).sum())
    if not len(classes) <= n <= available:
        raise EvaluateError(f"n = {n} images of {len(classes)} classes: ask for {len(classes)} to {available}")
    wanted = dict(zip(classes, _even(n, len(classes)), strict=True))
    return _draw(labels, class_names, wanted, n, seed=seed)


def _draw(
    labels: NDArray[np.int64], class_names: tuple[str, ...], wanted: Mapping[int, int], n: int, *, seed: int
) -> NDArray[np.int64]:
    """Positions of the first images that are ``wanted`` of each class, in the seed's order of the class."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels, np.arange(len(class_names) + 1), sorter=by_class)
    chosen = []
    for label, count in wanted.items():
        members = by_class[starts[label] : starts[label + 1]]
        if len(members) < count:
            raise EvaluateError(
                f"n = {n} images of {len(wanted)} classes need {count} of class {class_names[label]},"
                f" which has {len(members)}"
            )
        order = np.random.RandomState(derive_seed(seed, "images", label) % 2**32).permutation(len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def _of(
    classes: Sequence[int],
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    *,
    rule: str,
) -> Selection:
    """A selection of some classes only, which keep their order."""
    kept = np.sort(np.asarray(classes))
    names = tuple(class_names[label] for label in kept)
    return Selection(indices=indices, labels=np.searchsorted(kept, labels[indices]), class_names=names, rule=rule)
