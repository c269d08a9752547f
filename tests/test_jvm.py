"""ONNX packages from the JVM, as an Android app calls them: every point, every route, the golden rows.

Slow tier: ``pytest -m slow``. Needs a JDK 17 or newer and Maven, which fetches ONNX Runtime's jar.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from replay_toys import World, exported_to, exported_world

from canet_export.checks import LIMITS, check_golden
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.package import Package, open_package
from canet_mobile.replay.device import ROUTER, Answer, Device
from canet_mobile.telemetry import SWITCHES

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "jvm" / "Answers.java"
# The newest on Maven Central; Python's, in constraints.txt, is newer.
JAR = "com.microsoft.onnxruntime:onnxruntime:1.29.0"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy"
ASK, ROUTER_ALONE = -1, -2
FILES = ("canet.onnx", "canet.ort")

Call = tuple[int, int, tuple[int, ...]]  # force_route, point, history


def _missing(what: str) -> None:
    """Skip, but on CI, where nobody reads what was skipped, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """ONNX Runtime for the JVM."""
    for command, what in (("javac", "a JDK 17 or newer"), ("mvn", "Maven")):
        if shutil.which(command) is None:
            _missing(f"{what} is not here: there is no {command} on the PATH")
    folder = tmp_path_factory.mktemp("jar")
    fetch = ["mvn", "-q", "-B", COPY, f"-Dartifact={JAR}", f"-DoutputDirectory={folder}"]
    fetched = subprocess.run(fetch, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert fetched.returncode == 0, f"Maven cannot fetch {JAR}: {fetched.stdout[-2000:]}{fetched.stderr}"
    (found,) = folder.glob("*.jar")
    yield found
    found.unlink()  # 80 MB; Maven keeps its own


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return exported_world(tmp_path_factory.mktemp("onnx"), "onnx")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def package(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    """Every route of the toy model."""
    if request.param == "int8":
        return open_package(world.package)
    out = tmp_path_factory.mktemp("fp32") / "package"
    return open_package(exported_to("onnx", world.run, out, "--quantize", "fp32"))


def from_jvm(jar: Path, model: Path, calls: Sequence[Call], folder: Path) -> dict[Call, list[str]]:
    """What a JVM in an empty home answers: route, scores and ids of each call, or ``refused ...``."""
    asked, answered, home, temporary = (folder / name for name in ("calls", "answers", "home", "tmp"))
    home.mkdir()
    temporary.mkdir()
    lines = [" ".join(map(str, (force, point, *seq))) for force, point, seq in calls]
    asked.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    env = os.environ | SWITCHES | {"HOME": str(home), "TMPDIR": str(temporary)}
    env.pop("XDG_CACHE_HOME", None)
    command = ["java", "-Xmx512m", f"-Duser.home={home}", f"-Djava.io.tmpdir={temporary}", "-cp", str(jar)]
    command += [str(PROGRAM), str(model), str(asked), str(answered)]
    run = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr
    # A device id and an event database would lie in the first, .ses and a log in the second.
    assert not [path for place in (home, temporary) for path in place.rglob("*") if path.is_file()]
    answers = answered.read_text(encoding="utf-8").splitlines()
    return {call: answer.split("|") for call, answer in zip(calls, answers, strict=True)}


def arrays(answer: list[str]) -> tuple[np.ndarray, ...]:
    """route int64 [1], and where a route ran scores float32 [1, k] and ids int64 [1, k]."""
    route, *lists = answer
    found = [np.array([int(route)])]
    for text, dtype in zip(lists, (np.float32, np.int64), strict=False):
        found.append(np.array([text.split()], dtype))
    return tuple(found)


@pytest.mark.parametrize("file", FILES)
def test_a_jvm_steers_every_point_and_route_and_answers_the_golden_rows(
    jar: Path, package: Package, file: str, tmp_path: Path
) -> None:
    ids = {route.entry: route.id for route in package.routes}
    rows = {tuple(row.input.tolist()): row for row in package.golden}
    calls: list[Call] = [
        (force, point, seq)
        for seq in rows
        for force, points in (
            *((force, range(len(POINTS))) for force in (ASK, ROUTER_ALONE)),
            *((number, [BALANCED]) for number in ids.values()),
        )
        for point in points
    ]
    found = {
        call: arrays(answer)
        for call, answer in from_jvm(jar, package.directory / file, calls, tmp_path).items()
    }

    def call(entry: str, seq: np.ndarray, point: int) -> Answer:
        key = tuple(seq.tolist())
        if entry == ROUTER:
            return Answer(found[ROUTER_ALONE, point, key], 0)
        return Answer(found[ids[entry], BALANCED, key][1:], 0)

    device = Device("jvm", JAR, 1, 0.0, lambda _: 0.0, call)
    checked = check_golden(device, package, LIMITS[package.quantization])
    assert checked.passed, [str(failure) for failure in checked.failures]
    assert {row.entry for row in package.golden} == set(ids)
    routes_at = list(zip(*(row.routes for row in package.golden), strict=True))
    assert len(set(routes_at)) == len(POINTS)  # no two points route alike, so each was obeyed
    for (force, point, seq), answer in found.items():
        if force == ASK:  # one call does both
            assert answer[0].tolist() == [rows[seq].routes[point]]
            assert all(map(np.array_equal, answer, found[int(answer[0][0]), BALANCED, seq]))
        elif force != ROUTER_ALONE:
            assert answer[0].tolist() == [force]


@pytest.mark.parametrize("file", FILES)
def test_a_jvm_outlives_what_is_out_of_range(jar: Path, package: Package, file: str, tmp_path: Path) -> None:
    seq = next(row.input for row in package.golden if (row.input > 0).all())
    odd = {number: seq.copy() for number in (0, -1, package.items + 1, 2**31 - 1, -(2**31))}
    for number, history in odd.items():
        history[[1, -1]] = number
    forces = (ASK, ROUTER_ALONE, package.routes[-1].id)
    calls = [(force, BALANCED, tuple(each.tolist())) for each in odd.values() for force in forces]
    steered = [(force, point) for force in (ASK, ROUTER_ALONE) for point in (-1, len(POINTS), 2**31 - 1)]
    steered += [(force, BALANCED) for force in (len(package.space), 2**31 - 1)]
    refused = [(*values, tuple(seq.tolist())) for values in steered]
    answers = from_jvm(jar, package.directory / file, [*refused, *calls], tmp_path)
    for call in refused:
        assert answers[call][0].startswith("refused ") and "out of data bounds" in answers[call][0], call
    for force in forces:
        first, *others = (answers[force, BALANCED, tuple(each.tolist())] for each in odd.values())
        assert len(first) == (1 if force == ROUTER_ALONE else 3)
        assert all(other == first for other in others)
