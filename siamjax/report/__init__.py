"""The report of a run, with tables and figures on one page; and a look inside a network."""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.report.embedding import embedding_report
    from siamjax.report.inside import activations, dead_filters, layers
    from siamjax.report.page import write_report
    from siamjax.report.reid import reid_report
    from siamjax.report.retrieval import retrieval_report
    from siamjax.report.verification import verification_report

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "activations",
    "dead_filters",
    "embedding_report",
    "layers",
    "reid_report",
    "retrieval_report",
    "verification_report",
    "write_report",
]
