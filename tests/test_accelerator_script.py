"""benchmarks/accelerator.py tried on the CPU, where most of what training needs is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accelerator import plan

ROOT = Path(__file__).parent.parent
# What a machine with an accelerator need not have; in every process, pytest's too.
MISSING = ["grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX", "pooch"]
MISSING += ["jinja2", "matplotlib", "h5py"]
ALL = ("--dry", "--minutes", "60")  # however busy the machine is


def run(folder, *options, missing=(*MISSING, "torch")):
    blocks = folder / "blocks"
    blocks.mkdir()
    (blocks / "sitecustomize.py").write_text(
        f"import sys\nfor name in {list(missing)}:\n    sys.modules[name] = None\n"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "PYTHONPATH": f"{blocks}{os.pathsep}{ROOT}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    }
    out = folder / "accelerator.json"
    command = [sys.executable, "-m", "benchmarks.accelerator", *options, "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done, json.loads(out.read_text()) if out.exists() else None


def check(found, missing):
    assert found["tests"]["passed"] > 10
    assert found["tests"]["failed"] == found["tests"]["error"] == 0
    assert found["tests"]["skipped"] == 0
    assert [row["name"] for row in found["rows"]] == [row.name for row in plan(dry=True)]
    for row in found["rows"]:
        if "torch" in row["name"] and missing:
            assert row["missing"] == "torch"
            continue
        assert row["median_ms"] > 0, row
        if "torch" not in row["name"]:
            assert row["flop_per_s"] > 0
            assert row["bytes_per_s"] > 0
            assert row["share_of_peak"] is None  # of a CPU, whose peak nobody knows here
    assert found["not_reached"] == []


@pytest.mark.slow
def test_every_kind_of_row_runs_dry(tmp_path):
    done, found = run(tmp_path, *ALL)
    assert done.returncode == 0, done.stderr[-3000:]
    check(found, missing=True)


@pytest.mark.parity
def test_and_beside_pytorch(tmp_path):
    pytest.importorskip("torch")
    done, found = run(tmp_path, *ALL, missing=MISSING)
    assert done.returncode == 0, done.stderr[-3000:]
    check(found, missing=False)


def test_what_is_not_reached_is_listed(tmp_path):
    done, found = run(tmp_path, "--dry", "--minutes", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert found["rows"] == []
    assert found["not_reached"] == [row.name for row in plan(dry=True)]
    assert found["tests"]["status"] == "stopped after 0 s"


def test_without_an_accelerator_the_dry_run_is_named(tmp_path):
    done, found = run(tmp_path)
    assert done.returncode == 1
    assert "--dry" in done.stderr
    assert found is None


def test_the_whole_plan_has_the_named_order():
    """Tests come first of all; then 64 pairs, whole steps beside PyTorch, then the rest."""
    names = [row.name for row in plan(dry=False)]
    assert len(set(names)) == len(names)
    kinds = ["64 pairs" if ", 64 pairs," in name else name.partition(",")[0] for name in names]
    assert kinds[:18] == ["64 pairs"] * 18
    assert kinds[18:30] == ["train step"] * 12
    for batch in (8, 64, 256):
        for precision in ("float32", "tf32", "bfloat16"):
            for direction in ("forward", "forward + backward"):
                for form in ("as dispatched", "patch products", "shifted maps"):
                    assert f"normxcorr, {batch} pairs, {form}, {precision}, {direction}" in names
