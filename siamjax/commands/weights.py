"""Commands on published weights: what there is, fetch it, and read any format once for all."""

from pathlib import Path

import tyro

from siamjax.errors import UsageError
from siamjax.models.preprocessing import Preprocessing


def list_weights() -> None:
    """Published weights by name: network, preprocessing, licence, address, and what is here."""
    from siamjax.pretrained.published import PUBLISHED, cache_folder

    folder = cache_folder()
    for name, one in PUBLISHED.items():
        here = "here" if (folder / one.file).exists() else "not here"
        print(f"{name}: {one.architecture}, {one.preprocessing}; {one.licence}; {here}")
        print(f"    {one.address} ({one.digest})")
    print(f"kept in {folder}")


def get(name: tyro.conf.Positional[str], /) -> None:
    """Fetch published weights, checked by their digest; prints where they are.

    Args:
        name: as `weights list` names them; an experiment's --weights takes the same names.
    """
    from siamjax.pretrained.published import fetch

    print(fetch(name))


def convert(
    file: tyro.conf.Positional[Path],
    /,
    *,
    out: Path | None = None,
    preprocessing: Preprocessing | None = None,
    leave_out: tuple[str, ...] = (),
) -> None:
    """Read a published file of weights, check it, and write it as this project's own .npz.

    Args:
        file: Keras .h5 or .weights.h5, a TensorFlow.js folder, .npz, .pth, .safetensors, or a name.
        out: file to write; None: the name with .npz in this folder.
        preprocessing: of its images, where the file does not say it.
        leave_out: beginnings of layers, such as a head of another task.
    """
    from siamjax.pretrained.published import open_weights

    weights = open_weights(file, preprocessing=preprocessing).without(*leave_out)
    path = Path(f"{file.name.split('.')[0] or 'weights'}.npz") if out is None else out
    if path.suffix != ".npz":
        raise UsageError(f"{path}: the file to write must end in .npz")
    if path.exists():
        raise UsageError(f"{path} exists already; give --out another, or remove it")
    try:
        weights.save(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    layers = sorted({name.split("/")[1] for name in weights.tensors})
    count = sum(tensor.size for tensor in weights.tensors.values())
    print(
        f"{path}: {weights.architecture}, {len(layers)} layers, {count:,} values, images "
        f"preprocessed by {weights.preprocessing}"
    )
