"""Embeds a folder of images by a small network.

    python embedding.py HOST:PORT,COUNT,INDEX IMAGES OUT WRITES

does so as one of several processes (``alone``: as a single one). Process 0 kills itself after so
many writes into the index; -1: never.
"""

import os
import signal
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SIZE = (6, 5)


class Small(nn.Module):
    @nn.compact
    def embed(self, x):
        return nn.Dense(7)(x.reshape(len(x), -1).astype(jnp.float32) / 255)

    def __call__(self, x):
        return self.embed(x)


if __name__ == "__main__":
    from siamjax import messages, processes
    from siamjax.data.open_catalogue import stream_catalogue
    from siamjax.errors import UsageError
    from siamjax.inference.embedder import Embedder
    from siamjax.search import index_making
    from siamjax.search.embed_catalogue import embed_catalogue

    words, images, out, writes = sys.argv[1:]
    if words != "alone":
        processes.start(words)
    network = Small()
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, *SIZE, 3), np.uint8))
    write, left = index_making.write_at, int(writes)

    def counted(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        write(*arguments, **options)

    index_making.write_at = counted
    try:
        with messages.quiet():
            done = embed_catalogue(
                stream_catalogue(images),
                Embedder(network=network, variables=variables, size=SIZE, batch_size=8),
                Path(out),
                source="images",
                chunk=8,
                progress=False,
            )
    except UsageError as error:
        print(error, file=sys.stderr)
        processes.leave(1)
    print(done.added, done.present, len(done.index), sorted(done.failed))
