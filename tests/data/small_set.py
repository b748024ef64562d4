"""A set of twelve images, and a program that prepares it slowly."""

import io
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from siamjax.data.prepared import ImageBuilder, prepared_people
from siamjax.errors import UsageError


class SmallSet(ImageBuilder, skip_registration=True):
    """Four people, three images each."""

    name = "small_set"
    encoding = "png"
    about = "twelve images"

    def _partitions(self):
        return {"training": [[1, 2], [3]]}

    def _images(self):
        if self._home == "broken":
            raise UsageError("the raw files are not complete")
        if isinstance(self._home, Path):
            with (self._home / "times").open("a") as file:
                file.write("prepared\n")
            time.sleep(0.5)
        for number in range(12):
            if self._home == "killed" and number == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            content = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)
            Image.fromarray(pixels).save(content, "png")
            person, camera = divmod(number, 3)
            name = f"p{person}/{camera}.png"
            yield name, f"p{person}", content.getvalue(), {"camera": camera + 1}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    home = sys.argv[2] if len(sys.argv) > 2 else place
    images, _ = prepared_people(SmallSet(home=home, data_dir=place), credit="mine")
    print(f"{len(images)} images of {len(set(images.identities))} people")
