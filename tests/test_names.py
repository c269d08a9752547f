"""Names of folders, files and people: any of them works everywhere, and none of them leaves in a package."""

from __future__ import annotations

import json
import os
import platform
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_dataset
from replay_toys import exported_to, toy_canet, toy_dataset, toy_run

from canet_mobile.cli.main import run
from canet_mobile.files import read_json
from canet_mobile.package.package import open_package

TINY = ["--set=embedding=8,16", "--set=hidden=8,16", "--set=depth=1,2", "--set=length=8", "--set=epochs=1"]
TINY += ["--set=threads=1", "--set=guide_k=3"]
IMPORT = ["--min-item-count=1", "--min-history=3"]


def decoys(folder: Path) -> None:
    """Files that a pattern would find instead: their content is none of ours."""
    for name in ("proj o", "proj d", "proj old"):
        (folder / name / "datasets" / "shop v").mkdir(parents=True)
        for file in ("items.parquet", "sequences.parquet"):
            (folder / name / "datasets" / "shop v" / file).write_bytes(b"PAR1 a decoy PAR1")


def test_a_path_is_a_name_from_import_to_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    home = tmp_path / "proj [old]*?"
    home.mkdir()
    decoys(tmp_path)
    monkeypatch.chdir(home)
    make_dataset(tmp_path / "made")
    (tmp_path / "made.csv").rename(home / "log.csv")
    for arguments in (
        ["data", "import", "log.csv", "--out", "datasets/shop [v2]", *IMPORT],
        ["data", "describe", "datasets/shop [v2]"],
        ["train", "--data", "datasets/shop [v2]", "--out", "runs/r [a-z]*", *TINY],
        ["evaluate", "--limit", "20"],
        ["route", "--budget", "0.9", "--out", "runs/routed?"],
        ["export", "runs/r [a-z]*", "--target", "onnx", "--out", "packages/p[1]", "--zip", "--users", "10"],
        ["parity", "packages/p[1]", "--users", "10"],
        ["replay", "packages/p[1].zip", "--limit", "10", "--out", "replay*.json"],
        ["inspect", "packages/p[1]"],
    ):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)
    assert read_json(home / "replay*.json")["metrics"]["pytorch"] is not None, "found by hash"
    told = [
        path for path in home.rglob("*") if path.suffix in (".json", ".toml", ".jsonl", ".safetensors", ".pt")
    ]
    assert len(told) > 8
    assert [path for path in told if bytes(tmp_path) in path.read_bytes()] == [], "no place on this machine"


UNICODE = "Café 日本 😀"


def test_names_in_any_script_work_in_the_c_locale(tmp_path: Path) -> None:
    """Python's own help is turned off: what is left is ASCII for files, arguments and texts."""
    pytest.importorskip("onnxruntime")
    make_dataset(tmp_path / "made")
    rows = (tmp_path / "made.csv").read_text("utf-8").replace("i1,", f"{UNICODE},")
    (tmp_path / f"{UNICODE}.csv").write_text(rows, encoding="utf-8")
    items = f"item_id,title\n{UNICODE},{UNICODE} & Söhne\n"
    (tmp_path / "items.csv").write_text(items, encoding="utf-8")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))},
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "canet_mobile", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    call("data", "import", f"{UNICODE}.csv", "--out", f"sets/{UNICODE}", "--items-file", "items.csv", *IMPORT)
    manifest = read_json(tmp_path / "sets" / UNICODE / "manifest.json")
    assert manifest["name"] == UNICODE and manifest["sources"][0]["name"] == f"{UNICODE}.csv"
    described = json.loads(call("data", "describe", f"sets/{UNICODE}", "--top", "50", "--json"))
    assert f"{UNICODE} & Söhne" in [item["title"] for item in described["top_items"]]
    call("train", "--data", f"sets/{UNICODE}", "--out", f"runs/{UNICODE}", *TINY)
    assert read_json(tmp_path / "runs" / UNICODE / "manifest.json")["name"] == UNICODE
    call("export", "--target", "onnx", "--out", f"packages/{UNICODE}", "--users", "10")
    assert UNICODE in call("parity", f"packages/{UNICODE}", "--users", "10")
    rows = (tmp_path / "packages" / UNICODE / "items.csv").read_text("utf-8")
    assert f"{UNICODE},{UNICODE} & Söhne" in rows


USER, HOST = "zebedee", "quetzalcoatl"


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("executorch", ("--split",)),
        ("coreml", ()),
        ("coreml", ("--minimum-os", "ios17")),
        ("tflite", ()),
        ("onnx", ("--quantize", "fp32")),
        ("onnx", ()),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "default",
)
def test_no_byte_of_a_package_tells_who_made_it_or_where(
    target: str, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"coreml": "coremltools", "tflite": "litert_torch"}.get(target, target))
    home = tmp_path / f"home-of-{USER}"
    (home / "work").mkdir(parents=True)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.chdir(home / "work")
    made = toy_run(Path("runs") / f"of-{USER}", toy_dataset(Path("datasets") / f"of-{USER}"), toy_canet())
    routes = ("--routes", "e8_h8_d1,e16_h16_d2")
    package = exported_to(target, made.directory, home / "work" / "package", *routes, *options)
    secrets = {
        "the user": USER,
        "the working directory": str(tmp_path),
        "the host": HOST,
        "our sources": str(Path(__file__).resolve().parents[1]),
        "the environment": sys.prefix,
        "the base environment": sys.base_prefix,
        "installed packages": "site-packages",
        "the temporary folder": "/tmp/",
        "the real home folder": pwd.getpwuid(os.getuid()).pw_dir + "/",
    }
    if len(os.uname().nodename) > 5:  # a shorter one may stand in any file by chance
        secrets["the real host"] = os.uname().nodename
    assert open_package(package).manifest.target == target
    found = [
        (file.relative_to(package).as_posix(), what)
        for file in sorted(package.rglob("*"))
        if file.is_file()
        for what, secret in secrets.items()
        for encoding in ("utf-8", "utf-16-le")
        if secret.encode(encoding) in file.read_bytes()
    ]
    assert found == []
