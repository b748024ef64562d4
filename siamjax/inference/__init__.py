"""What a trained network gives: embeddings, scores of pairs, ranked galleries; and baselines.

``verification``, ``reid`` and ``retrieval`` do what a task asks for, ``evaluation`` tests any run;
``export`` writes a run so that JAX alone can call it.
"""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.inference.baselines import hsv_stripe_features, pixel_features, pixel_scores
    from siamjax.inference.calibrating import calibrate
    from siamjax.inference.calibration import Calibration
    from siamjax.inference.comparison import Comparison, compare_runs
    from siamjax.inference.cross_input import score_pairs
    from siamjax.inference.embedder import Embedder
    from siamjax.inference.evaluation import evaluate_run
    from siamjax.inference.export import export_run
    from siamjax.inference.frozen import frozen_maps
    from siamjax.inference.halves import compare_people
    from siamjax.inference.hard_negatives import Miner
    from siamjax.inference.judging import Judgement, judge_pairs, judge_queries
    from siamjax.inference.pairs import PairScorer
    from siamjax.inference.reid import ReidEvaluation, rank_gallery
    from siamjax.inference.retrieval import embed_split, evaluate_retrieval
    from siamjax.inference.tested import as_test
    from siamjax.inference.unseen import check_unseen
    from siamjax.inference.verification import Verifier, across_folds

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "Calibration",
    "Comparison",
    "Embedder",
    "Judgement",
    "Miner",
    "PairScorer",
    "ReidEvaluation",
    "Verifier",
    "across_folds",
    "as_test",
    "calibrate",
    "check_unseen",
    "compare_people",
    "compare_runs",
    "embed_split",
    "evaluate_retrieval",
    "evaluate_run",
    "export_run",
    "frozen_maps",
    "hsv_stripe_features",
    "judge_pairs",
    "judge_queries",
    "pixel_features",
    "pixel_scores",
    "rank_gallery",
    "score_pairs",
]
