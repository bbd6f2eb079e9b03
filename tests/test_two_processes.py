"""What only shows between processes: hash seeds, working directories, fresh caches."""

from __future__ import annotations

import os
import subprocess
import sys

from ddfw.cli.main import invoke

TINY = (
    "model.depth=2 model.width=4 experts.count=2 experts.epochs=3 outer.steps=3 outer.syn_steps=3 eval.networks=2 "
    "eval.epochs=3 eval.full_epochs=1 eval.every=2 window.max_start=1 window.start=1 param.subspaces=2 param.rank=3"
)


def test_two_processes_with_one_seed_write_the_same_bytes(tmp_path, monkeypatch):
    """Broken: a dictionary's order, a hash or a place would shape what is learned."""
    command = ["run", "--param", "lss", "--traj", "mct", "-q", "--out", "run"]
    command += [a for s in TINY.split() for a in ("--set", s)]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert invoke(command) == 0
    # Its strings hash otherwise than here, where the seed is random unless somebody set one.
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "ddfw", *command],
        cwd=tmp_path / "other",
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    files = ("params.safetensors", "images.safetensors", "labels.safetensors", "card.json")
    for file in (*(f"run/synthetic/{f}" for f in files), "run/images/synthetic.png", "run/config.toml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes(), file
    stores = [next((tmp_path / name / "experts").glob("*/index.json")).parent for name in ("one", "other")]
    assert stores[0].name == stores[1].name
    for path in stores[0].iterdir():
        assert path.read_bytes() == (stores[1] / path.name).read_bytes(), path.name
