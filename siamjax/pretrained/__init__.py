"""Published weights: read, checked tensor by tensor, and put into a network's variables.

VGG-16 (Simonyan and Zisserman, ICLR 2015) and InceptionV3 (Szegedy et al., CVPR 2016).
"""

from siamjax.options import Preprocessing
from siamjax.pretrained.architectures import HEADS
from siamjax.pretrained.published import open_weights
from siamjax.pretrained.reading import read_weights
from siamjax.pretrained.weights import Weights, put

__all__ = ["HEADS", "Preprocessing", "Weights", "open_weights", "put", "read_weights"]
