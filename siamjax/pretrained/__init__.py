"""Published weights: read, checked tensor by tensor, and put into a network's variables.

Which networks: :mod:`siamjax.pretrained.networks`; from which files: ``docs/backbones.md``.
"""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.options import Preprocessing
    from siamjax.pretrained.architectures import HEADS
    from siamjax.pretrained.published import open_weights
    from siamjax.pretrained.reading import read_weights
    from siamjax.pretrained.weights import Weights, put

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = ["HEADS", "Preprocessing", "Weights", "open_weights", "put", "read_weights"]
