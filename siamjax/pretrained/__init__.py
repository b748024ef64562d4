"""Published weights: read, checked tensor by tensor, and put into a network's parameters."""

from siamjax.pretrained.weights import Weights, put, read_vgg16

__all__ = ["Weights", "put", "read_vgg16"]
