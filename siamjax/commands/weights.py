"""The commands on published weights: list them, download them, convert other formats."""

import os
from pathlib import Path

import tyro

from siamjax.commands.output import Answer, answers
from siamjax.errors import UsageError, shown
from siamjax.options import Preprocessing


@answers
def list_weights() -> Answer:
    """List published weights: network, size, use, licence, address, and if they are here.

    Files from elsewhere are read as well: docs/backbones.md.
    """
    from siamjax.pretrained.networks import NETWORKS
    from siamjax.pretrained.published import PUBLISHED, place_of, weights_folder

    folder = weights_folder()
    listed = [
        {
            "name": name,
            "architecture": one.architecture,
            "preprocessing": one.preprocessing,
            "licence": one.licence,
            "address": one.address,
            "digest": one.digest or None,
            "megabytes": one.megabytes,
            "use": one.use,
            "path": path if os.path.exists(path := place_of(name)) else None,
        }
        for name, one in PUBLISHED.items()
    ]
    text = []
    for one in listed:
        here = "not here" if one["path"] is None else "here"
        text += [
            f"{one['name']}: {one['architecture']}, {one['megabytes']} MB; {one['use']}; {here}",
            f"    {one['licence']}",
            f"    {one['address']} ({one['digest'] or 'no digest is stated'})",
        ]
    addressed = {one["architecture"] for one in listed}
    others = [network.title for name, network in NETWORKS.items() if name not in addressed]
    text += [
        f"downloads are kept in {folder}",
        f"files of yours are read as well, also of {', '.join(others)}: docs/backbones.md",
    ]
    absent = [one["name"] for one in listed if one["path"] is None]
    then = ("weights", "get", absent[0]) if absent else ()
    return Answer(values={"weights": listed, "folder": folder}, text=text, then=then)


@answers
def get(name: tyro.conf.Positional[str], /) -> Answer:
    """Download published weights, check their digest, and print where they are.

    Args:
        name: One that `weights list` shows; --weights of an experiment takes the same names.
    """
    from siamjax.pretrained.published import fetch

    path = fetch(name)
    return Answer(
        values={"name": name, "path": path},
        text=[str(path)],
        then=("embed", "photos/", "--network", name, "--out", "index/"),
    )


@answers
def convert(
    file: tyro.conf.Positional[Path],
    /,
    *,
    out: Path | None = None,
    preprocessing: Preprocessing | None = None,
    leave_out: tuple[str, ...] = (),
) -> Answer:
    """Read a published file of weights, check it, and convert it to this project's .npz format.

    Args:
        file: Keras .h5 or .weights.h5, TensorFlow.js .json, .npz, PyTorch .pth, .pt or .bin,
            .safetensors, the folder of one, or a name that `weights list` shows.
        out: File to write; None: the same name with .npz, in the current folder.
        preprocessing: Preprocessing of the images, where the file does not name it.
        leave_out: Beginnings of the names of layers to leave out, such as another task's head.
    """
    from siamjax.files import saying
    from siamjax.pretrained.published import open_weights

    path = Path(f"{file.name.split('.')[0] or 'weights'}.npz") if out is None else out
    if path.suffix != ".npz":
        raise UsageError(f"{shown(path)}: the name of the file to write must end in .npz")
    if os.path.lexists(path):
        raise UsageError(f"{shown(path)} exists already; remove it, or choose another --out")
    weights = open_weights(file, preprocessing=preprocessing)
    for one in leave_out:
        if weights.without(one).tensors.keys() == weights.tensors.keys():
            raise UsageError(f"--leave-out {shown(one)}: no layer of {shown(file)} begins with it")
    weights = weights.without(*leave_out)
    with saying(f"{shown(path)}: cannot be written"):
        weights.save(path)
    layers = sorted({name.split("/")[1] for name in weights.tensors})
    count = sum(tensor.size for tensor in weights.tensors.values())
    values = {
        "path": path,
        "architecture": weights.architecture,
        "layers": layers,
        "values": count,
        "preprocessing": weights.preprocessing,
    }
    said = (
        f"{path}: {weights.architecture}, {len(weights.tensors)} tensors, {count:,} values, images "
        f"preprocessed by {weights.preprocessing}"
    )
    then = ("embed", "photos/", "--network", path, "--out", "index/")
    return Answer(values=values, text=[said], then=then)
