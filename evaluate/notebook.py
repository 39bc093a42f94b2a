"""Display of comparisons in notebooks; the analysis does not depend on how it is shown."""

from __future__ import annotations

from .analysis import compare as _compare
from .analysis.results import Comparison
from .reporting.report_tables import to_html

compare = _compare.compare
Comparison._repr_html_ = to_html  # type: ignore[attr-defined]
