"""Nothing is sent: every command in an empty home, watched by the kernel, and the switches one by one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import make_dataset
from watcher import CannotWatch, Seen, watch

from canet_mobile.telemetry import FOLDERS, ONNXRUNTIME_SWITCH, SWITCHES

TARGETS = ("executorch", "coreml", "tflite", "onnx")
TINY = dict(
    embedding="8,16", hidden="8,16", depth="1,2", length=8, batch=16, epochs=2, guide_k=3, warmup_steps=2,
    threads=1,
)  # fmt: skip
# Devices, and the semaphore that joblib (coremltools imports scikit-learn) makes and unlinks at once.
ALLOWED = ("/dev/null", "/dev/tty", "/dev/shm/sem.")


@dataclass(frozen=True)
class Place:
    """A fresh folder with an empty home, an empty temporary folder, and one to work in."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def run(self, *command: object) -> Seen:
        """Run a command here, watched; skips where nothing can be watched."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            return watch([str(word) for word in command], env, self.work)
        except CannotWatch as error:
            pytest.skip(f"system calls cannot be watched: {error}")

    def strays(self, seen: Seen, *named: str) -> list[str]:
        """What was made that is not below the named outputs; the temporary folder may be used."""
        below = tuple(f"{folder}/" for folder in (self.temporary, *(self.work / name for name in named)))
        made = {path for path in seen.made if not f"{path}/".startswith(below)}
        left = [path for folder in (self.home, self.temporary) for path in folder.rglob("*")]
        return sorted({path for path in made if not path.startswith(ALLOWED)} | {str(path) for path in left})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "root")
    for folder in (found.home, found.temporary, found.work):
        folder.mkdir(parents=True)
    return found


@pytest.mark.timeout(1200)  # twelve commands, a minute or two where nobody else computes
def test_every_command_opens_no_internet_socket_and_leaves_only_what_it_names(
    place: Place, tmp_path: Path
) -> None:
    for toolkit in ("executorch", "coremltools", "litert_torch", "onnx", "onnxruntime"):
        if find_spec(toolkit) is None:
            pytest.skip(f"{toolkit} is not installed")
    make_dataset(tmp_path / "log")
    keys = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    packages = [(name, Path("packages", name)) for name in TARGETS]
    commands: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        (("data", "import", tmp_path / "log.csv", "--out", "data/log", "--min-item-count", 1), ("data",)),
        (("train", "--data", "data/log", *keys, "--out", "runs/tiny"), ("runs",)),
        (("evaluate",), ("runs",)),
        (("export", "--target", "all", "--k", 10, "--users", 5, "--out", "packages"), ("packages",)),
        *((("parity", path, "--users", 5), ()) for _, path in packages),
        *((("replay", path, "--limit", 5), ()) for _, path in packages),
    ]
    for command, named in commands:
        seen = place.run(sys.executable, "-m", "canet_mobile", *command)
        assert seen.code in (0, 3), seen.output  # 3: of so few users NDCG may differ by more than 1 %
        assert "telemetry" not in seen.output
        assert seen.sockets == [], command
        assert place.strays(seen, *named) == [], command
    assert sorted(path.name for path in place.work.iterdir()) == ["data", "packages", "runs"]
    assert [len(list((place.work / path).glob("manifest.json"))) for _, path in packages] == [1] * 4


NATIVE = """
import ctypes, os, subprocess
libc = ctypes.CDLL(None)
assert [libc.socket(family, 1, 0) for family in (2, 10)] == [-1, -1], "the watcher let a socket pass"
assert libc.socket(1, 1, 0) >= 0
libc.mkdir(os.environ["HOME"].encode() + b"/native", 0o700)
subprocess.run(["sh", "-c", "echo > stray; mv stray moved"], check=True)
os.open("relative", os.O_CREAT, dir_fd=os.open("..", os.O_RDONLY))
os.open("/etc/passwd", os.O_RDONLY)
"""


def test_the_watcher_sees_native_sockets_files_and_children(place: Place) -> None:
    seen = place.run(sys.executable, "-c", NATIVE)
    assert seen.code == 0, seen.output
    assert [line.partition(" by ")[0] for line in seen.sockets] == [
        "socket of family 2",
        "socket of family 10",
    ]
    strays = place.strays(seen, "packages")
    expected = [place.home / "native", place.root / "relative", place.work / "moved", place.work / "stray"]
    assert strays == [str(path) for path in expected]


def test_the_watcher_sees_telemetry_that_is_left_on(place: Place) -> None:
    pytest.importorskip("onnxruntime")
    seen = place.run(sys.executable, "-c", "import onnxruntime; print(onnxruntime.__version__)")
    assert seen.code == 0, seen.output
    if tuple(map(int, seen.output.split(".")[:2])) < (1, 29):
        pytest.skip(f"onnxruntime {seen.output.strip()} has no telemetry on Linux")
    strays = place.strays(seen)
    assert {Path(path).name for path in strays} >= {"deviceid", "onnxruntime.db", ".ses"}


QUIET = "from canet_mobile.telemetry import onnxruntime; onnxruntime()"


def test_a_quiet_import_leaves_nothing_whatever_the_environment_says(place: Place) -> None:
    pytest.importorskip("onnxruntime")
    code = f"import os; os.environ['{ONNXRUNTIME_SWITCH}'] = '0'; {QUIET}"
    seen = place.run(sys.executable, "-c", code)
    assert (seen.code, seen.output, seen.sockets, place.strays(seen)) == (0, "", [], [])


ROOT = Path(__file__).parent.parent
HOME_OF_THE_IMPORT = ROOT / "canet_mobile" / "telemetry.py"
SOURCES = [file for part in ("canet_mobile", "export", "benchmarks") for file in (ROOT / part).rglob("*.py")]


def plain_imports(text: str) -> list[int]:
    """Lines that import onnxruntime or a part of it, by a statement or by a call with its name."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        names: list[object] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if function in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names = [first.value]
        lines += [node.lineno for name in names if str(name).partition(".")[0] == "onnxruntime"]
    return lines


def test_onnxruntime_is_imported_in_one_place_only() -> None:
    assert plain_imports(HOME_OF_THE_IMPORT.read_text("utf-8")) != []
    # A child in an environment that holds nothing of ours; its parent has set the switch in its environment.
    child, parent = (ROOT / "benchmarks" / name for name in ("_floor_child.py", "runtime_floors.py"))
    assert "switch_off()" in parent.read_text("utf-8")
    homes = {HOME_OF_THE_IMPORT, child}
    found = {str(file): plain_imports(file.read_text("utf-8")) for file in SOURCES if file not in homes}
    assert len(found) > 100
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import os, onnxruntime as ort",
        "from onnxruntime.tools import x",
        "importlib.import_module('onnxruntime')",
        "if a:\n    __import__('onnxruntime.quantization')",
    ],
)
def test_every_way_of_a_plain_import_is_found(line: str) -> None:
    assert len(plain_imports(line)) == 1
    assert plain_imports("from canet_mobile.telemetry import onnxruntime\nort = onnxruntime('tools')") == []


def run_with(place: Place, code: str, **modules: str) -> subprocess.CompletedProcess[str]:
    """Run code where modules of these names and texts hide the real ones."""
    for name, text in modules.items():
        (place.work / f"{name}.py").write_text(text, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name not in {*SWITCHES, *FOLDERS}}
    env |= {"HOME": str(place.home), "TMPDIR": str(place.temporary), "PYTHONPATH": str(place.work)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done


CALL = "def disable_telemetry_events(): print('called')\n"
SES = "import os, pathlib; pathlib.Path(os.environ['TMPDIR'], '.ses').write_text('x')\n"
HELD = "import os; held = open(os.path.join(os.environ['HOME'], 'another place'), 'w')\n"


@pytest.mark.parametrize("left", [SES, HELD])
def test_a_version_that_ignores_the_switch_is_warned_about_once(place: Place, left: str) -> None:
    done = run_with(place, f"{QUIET}; onnxruntime()", onnxruntime=left + CALL)
    assert done.stderr.count("warning: ONNX Runtime's telemetry may be on") == 1
    assert f"{ONNXRUNTIME_SWITCH}=1 did not keep it from" in done.stderr


def test_a_version_without_the_call_is_warned_about(place: Place) -> None:
    done = run_with(place, QUIET, onnxruntime="")
    assert "warning: ONNX Runtime's telemetry may be on: it has no disable_telemetry_events()" in done.stderr


def test_an_import_before_ours_is_warned_about(place: Place) -> None:
    done = run_with(place, f"import onnxruntime; {QUIET}; onnxruntime()", onnxruntime=CALL)
    assert done.stderr.count("it was imported before canet-mobile") == 1


def test_the_switch_is_set_before_the_import_and_the_call_made_after_it(place: Place) -> None:
    early = f"import os; print(os.environ['{ONNXRUNTIME_SWITCH}'])\n"
    done = run_with(place, QUIET, onnxruntime=early + CALL)
    assert (done.stdout, done.stderr) == ("1\ncalled\n", "")


def test_a_command_sets_the_switches_before_its_module_is_imported(place: Place) -> None:
    code = (
        "import json, os, sys; from canet_mobile.cli.main import command\n"
        "class Look:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'canet_mobile.cli.doctor': print(json.dumps(dict(os.environ)))\n"
        "sys.meta_path.insert(0, Look()); command.get_command(None, 'doctor')"
    )
    found = json.loads(run_with(place, code).stdout)
    assert {name: found[name] for name in SWITCHES} == SWITCHES
    folders = [Path(found[name]) for name in FOLDERS]
    assert [folder.name for folder in folders] == list(FOLDERS.values())
    assert {folder.parent.parent for folder in folders} == {place.temporary}
    assert list(place.temporary.iterdir()) == []  # they end with the process


def test_a_folder_that_the_user_named_stays(place: Place) -> None:
    named = place.work / "kernels"
    named.mkdir()
    code = f"import os; os.environ['TORCHINDUCTOR_CACHE_DIR'] = {str(named)!r};"
    run_with(
        place, f"{code} from canet_mobile.telemetry import switch_off; switch_off(); import torch._dynamo"
    )
    assert named.is_dir()
    assert list(place.temporary.iterdir()) == []


SPILL = """
import os
from canet_mobile.telemetry import switch_off
switch_off()
os.environ |= {"POLARS_OOC_MEMORY_BUDGET_MB": "1", "POLARS_OOC_SPILL_MIN_BYTES": "1"}
import polars as pl
rows = pl.LazyFrame({"user": range(200_000)}).with_columns(time=pl.col("user") * 7919 % 1_000_003)
print(rows.sort("time").collect(engine="streaming").height)
"""


def test_rows_that_polars_writes_aside_when_memory_is_short_end_with_the_process(place: Place) -> None:
    seen = place.run(sys.executable, "-c", SPILL)
    assert (seen.code, seen.output) == (0, "200000\n")
    assert [path for path in seen.made if "/spill/" in path and path.startswith(str(place.temporary))]
    assert place.strays(seen) == []
