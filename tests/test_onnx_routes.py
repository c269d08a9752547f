"""The ONNX graph: every route and the router as PyTorch, whatever the model and the choice of routes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_toys import ASK, ITEMS, ROUTER_ALONE, Exported, K, exported, histories, make_job, open_session, toy

from canet_export.checks import LIMITS
from canet_export.onnx.export import MODEL_FILE, ORT_FILE
from canet_export.onnx.ort_format import require_same_answers
from canet_mobile.errors import CanetError
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.model.space import Route, RoutingSpace

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SPACE = RoutingSpace((8, 16, 24), (8, 16, 24), (1, 2, 4))
WIDE = RoutingSpace((32, 64, 96), (32, 64, 96), (1, 2))  # four bits come in groups of 32
PRESETS = ("fp32", "fp16", "int8")


def check_route(found: Exported, seq: np.ndarray, route: Route, overlaps: list[float]) -> None:
    """One forced route against PyTorch with the same numbers."""
    limits = LIMITS[found.job.quantization]
    route_id = found.job.canet.space.id_of(route)
    answered, scores, ids = found.answer(seq, route_id)
    assert answered.tolist() == [route_id]
    assert scores.shape == ids.shape == (1, K)
    assert (str(scores.dtype), str(ids.dtype)) == ("float32", "int64")
    full = found.expected(seq, route)
    best = full.topk(K)
    tolerance = limits.tolerance(best.values.numpy())
    assert np.abs(scores[0] - best.values.numpy()).max() <= tolerance, route.entry
    assert np.abs(scores[0] - full.numpy()[ids[0]]).max() <= tolerance, route.entry
    assert len(set(ids[0].tolist())) == K
    assert ids.min() >= 1
    overlaps.append(len(set(ids[0][:10].tolist()) & set(best.indices[:10].tolist())) / 10)


def check_all(found: Exported, n: int = 3) -> None:
    """Every exported route on a history of one item, a full one, and others; the router on each, at every
    operating point."""
    overlaps: list[float] = []
    for seq in histories(n):
        for route in found.job.routes:
            check_route(found, seq, route, overlaps)
        for point in range(len(POINTS)):
            assert found.answer(seq, ROUTER_ALONE, point)[0].tolist() == [found.expected_route(seq, point)]
    least = LIMITS[found.job.quantization].overlap
    assert least is None or np.mean(overlaps) >= least


@pytest.mark.parametrize("quantization", PRESETS)
@pytest.mark.parametrize("kind", ["shared", "own", "tied"])
def test_every_route_and_the_router_are_pytorchs(quantization: str, kind: str, tmp_path: Path) -> None:
    table = "own" if kind == "own" else "shared"
    canet = toy(SPACE, table=table, tied=kind == "tied")
    check_all(exported(tmp_path, make_job(canet, quantization)))


@pytest.mark.parametrize("higher", [(), ("supernet.item_table",)])
@pytest.mark.parametrize("kind", ["shared", "own", "tied"])
def test_four_bits_are_pytorchs_with_the_same_integers(
    kind: str, higher: tuple[str, ...], tmp_path: Path
) -> None:
    canet = toy(WIDE, table="own" if kind == "own" else "shared", tied=kind == "tied")
    check_all(exported(tmp_path / "all", make_job(canet, "int4", higher=higher)))
    few = [Route(32, 64, 1), Route(96, 32, 2)]
    check_all(exported(tmp_path / "few", make_job(canet, "int4", few, higher=higher, seen="exclude")))
    plain = make_job(canet, "int4", [Route(64, 32, 2)], higher=higher, plain=True)
    check_route(exported(tmp_path / "plain", plain), histories(1)[0], Route(64, 32, 2), [])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_choice_of_routes_of_any_model(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    widths = st.lists(st.sampled_from([4, 8, 12, 20]), min_size=1, max_size=3, unique=True)
    embedding, hidden = (tuple(sorted(data.draw(widths))) for _ in range(2))
    depth = tuple(
        sorted(data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=2, unique=True)))
    )
    tied = data.draw(st.booleans())
    if tied:
        embedding = tuple(sorted({*embedding, hidden[-1]}))
        embedding = tuple(width for width in embedding if width <= hidden[-1])
    space = RoutingSpace(embedding, hidden, depth)
    router_width = data.draw(st.sampled_from([w for w in (4, 8, 12) if w <= embedding[-1]]))
    canet = toy(
        space, table=data.draw(st.sampled_from(["own", "shared"])), tied=tied, router_width=router_width
    )
    routes = data.draw(st.lists(st.sampled_from(space.routes), min_size=1, max_size=4, unique=True))
    job = make_job(
        canet, data.draw(st.sampled_from(PRESETS)), sorted(routes, key=space.id_of),
        seen=data.draw(st.sampled_from(["keep", "exclude"])),
    )  # fmt: skip
    found = exported(tmp_path_factory.mktemp("any"), job)
    overlaps: list[float] = []
    for seq in histories(2):
        for route in job.routes:
            check_route(found, seq, route, overlaps)
        for point in range(len(POINTS)):
            assert found.answer(seq, point=point)[0].tolist() == [found.expected_route(seq, point)]


def test_seen_items_never_come_back(tmp_path: Path) -> None:
    found = exported(tmp_path, make_job(toy(SPACE), "int8", SPACE.routes[:2], seen="exclude"))
    for seq in histories(6):
        for route in SPACE.routes[:2]:
            check_route(found, seq, route, [])
            _, _, ids = found.answer(seq, SPACE.id_of(route))
            assert not set(ids[0].tolist()) & set(seq.tolist())


@pytest.mark.parametrize("file", [MODEL_FILE, ORT_FILE])
def test_one_call_runs_the_routers_choice_at_the_point(file: str, tmp_path: Path) -> None:
    found = exported(tmp_path, make_job(toy(SPACE), "int8"))
    found = replace(found, session=open_session(tmp_path / file))
    chosen = []
    for seq in histories(20):
        for point in range(len(POINTS)):
            route, scores, ids = found.answer(seq, point=point)
            chosen.append(int(route[0]))
            _, forced_scores, forced_ids = found.answer(seq, chosen[-1])
            assert np.array_equal(scores, forced_scores)
            assert np.array_equal(ids, forced_ids)
        assert chosen[-len(POINTS) :] == [found.expected_route(seq, point) for point in range(len(POINTS))]
    at = [tuple(chosen[point :: len(POINTS)]) for point in range(len(POINTS))]
    assert len(set(at)) == len(POINTS)
    assert all(len(set(routes)) > 1 for routes in at)


@pytest.mark.parametrize("file", [MODEL_FILE, ORT_FILE])
@pytest.mark.parametrize("kind", ["all", "some", "one", "no router"])
def test_every_input_is_required_because_java_refuses_one_with_a_default(
    kind: str, file: str, tmp_path: Path
) -> None:
    chosen = {"all": (), "some": SPACE.routes[3:5], "one": SPACE.routes[3:4], "no router": ()}[kind]
    space = RoutingSpace((16,), (16,), (2,))
    canet = toy(SPACE) if kind != "no router" else toy(space, has_router=False, in_projection=False)
    exported(tmp_path, make_job(canet, "int8", chosen))
    session = open_session(tmp_path / file)
    takes = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    one = "tensor(int32)", [1]
    assert takes == [("seq", "tensor(int32)", [1, 10]), ("force_route", *one), ("point", *one)]
    assert not session.get_overridable_initializers()
    with pytest.raises(ValueError, match=r"Required inputs.*point.* are missing"):
        session.run(None, {"seq": histories(1)[0][None], "force_route": np.array([-1], np.int32)})


OUTSIDE = (-1, len(POINTS), 2**31 - 1, -(2**31))


@pytest.mark.parametrize("file", [MODEL_FILE, ORT_FILE])
def test_a_point_that_is_none_is_an_error_and_not_the_last_but_one(file: str, tmp_path: Path) -> None:
    found = exported(tmp_path, make_job(toy(SPACE), "fp32"))
    found = replace(found, session=open_session(tmp_path / file))
    seq = histories(1)[0]
    for point in OUTSIDE:
        for force in (ASK, ROUTER_ALONE):
            with pytest.raises(Exception, match="out of data bounds"):
                found.answer(seq, force, point)
        assert found.answer(seq, 4, point)[0].tolist() == [4]  # a forced route asks for none


@pytest.mark.parametrize("file", [MODEL_FILE, ORT_FILE])
@pytest.mark.parametrize("held", [(), (3, 8), (3,)])
def test_a_forced_route_that_is_not_held_is_an_error(
    held: tuple[int, ...], file: str, tmp_path: Path
) -> None:
    found = exported(tmp_path, make_job(toy(SPACE), "int8", [SPACE.routes[number] for number in held]))
    found = replace(found, session=open_session(tmp_path / file))
    seq = histories(1)[0]
    for force in (4, len(SPACE), 2**31 - 1):
        if force == 4 and not held:
            continue
        with pytest.raises(Exception, match="out of data bounds"):
            found.answer(seq, force)
    alone = found.answer(seq, ROUTER_ALONE)
    for force in (-3, -(2**31)):
        assert all(np.array_equal(*pair) for pair in zip(found.answer(seq, force), alone, strict=True))


@pytest.mark.parametrize("quantization", PRESETS)
@pytest.mark.parametrize("kind", ["shared", "own", "tied", "exclude", "plain"])
def test_an_id_that_is_no_items_is_padding(kind: str, quantization: str, tmp_path: Path) -> None:
    canet = toy(SPACE, table="own" if kind == "own" else "shared", tied=kind == "tied")
    seen = "exclude" if kind == "exclude" else "keep"
    route = SPACE.routes[14]
    if kind == "plain":
        job = make_job(canet, quantization, [route], plain=True)
    else:
        job = make_job(canet, quantization, seen=seen)
    found = exported(tmp_path, job)
    files = (MODEL_FILE, ORT_FILE) if quantization != "fp16" else (MODEL_FILE,)
    for session in (open_session(tmp_path / file) for file in files):
        found = replace(found, session=session)
        for number in (-1, ITEMS + 1, 2**31 - 1, -(2**31)):
            seq = histories(2)[1]
            places = [0, 4, 9]  # in the middle and at the newest place too
            expected = seq.copy()
            seq[places], expected[places] = number, 0
            for force in (ASK, ROUTER_ALONE, SPACE.id_of(route)):
                pairs = zip(found.answer(seq, force), found.answer(expected, force), strict=True)
                assert all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("has_router", [True, False])
def test_a_graph_with_nothing_to_choose_takes_a_point_too(has_router: bool, tmp_path: Path) -> None:
    space = RoutingSpace((16,), (16,), (2,))
    if has_router:
        job = make_job(toy(SPACE), "int8", [Route(16, 24, 2)])
    else:
        job = make_job(toy(space, has_router=False, in_projection=False), "int8")
    found = exported(tmp_path, job)
    seq = histories(2)[1]
    for file in (MODEL_FILE, ORT_FILE):
        same = replace(found, session=open_session(tmp_path / file))
        _, *expected = same.answer(seq)
        for point in range(len(POINTS)):
            route, *answers = same.answer(seq, point=point)
            assert route.tolist() == [found.expected_route(seq, point)]
            assert all(np.array_equal(*pair) for pair in zip(answers, expected, strict=True))


def test_the_router_alone_runs_no_route_and_a_forced_route_no_router(tmp_path: Path) -> None:
    import json

    import onnxruntime as ort

    found = exported(tmp_path, make_job(toy(SPACE), "fp32"))
    options = ort.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 4
    options.profile_file_prefix = str(tmp_path / "profile")
    blocks = []
    for force in (ROUTER_ALONE, 0):
        session = ort.InferenceSession(str(tmp_path / "canet.onnx"), options)
        one = {"force_route": np.array([force], np.int32), "point": np.array([BALANCED], np.int32)}
        route, scores, _ = session.run(None, {"seq": histories(2)[1][None], **one})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        names = [event["args"].get("op_name") for event in events if event.get("cat") == "Node"]
        blocks.append((names.count("MultiHeadAttention"), names.count("TopK"), names.count("ArgMax")))
        if force == ROUTER_ALONE:
            assert route.tolist() == [found.expected_route(histories(2)[1])]
            assert not scores.any()
    assert blocks == [(1, 0, 1), (1, 1, 0)]


def test_the_lowest_id_wins_a_tie(tmp_path: Path) -> None:
    canet = toy(SPACE)
    assert canet.router is not None
    canet.router.head_weight.data.zero_()
    canet.router.head_bias.data.fill_(-1.0)
    canet.router.head_bias.data[[5, 7, 9]] = 0.25
    canet.router.points.zero_()
    canet.router.points[0, [8, 3]] = 2.0
    canet.router.points[2, 1] = 1.25
    found = exported(tmp_path, make_job(canet))
    seq = histories(1)[0]
    assert [found.answer(seq, point=point)[0].item() for point in range(len(POINTS))] == [3, 5, 1]


def test_few_routes_make_a_small_file(tmp_path: Path) -> None:
    canet = toy(SPACE)
    whole = exported(tmp_path / "all", make_job(canet)).result.sizes
    few = exported(tmp_path / "few", make_job(canet, "fp32", [Route(8, 8, 1), Route(8, 8, 2)])).result.sizes
    assert few.item_table_bytes * 3 == whole.item_table_bytes
    assert few.layers_bytes < whole.layers_bytes / 6
    one = exported(tmp_path / "one", make_job(canet, "int8", [Route(16, 24, 2)]))
    assert "Slice" not in operators(tmp_path / "one")
    assert one.result.sizes.router_bytes == 0
    check_all(one)


def test_a_plain_sasrec_without_router_or_projection(tmp_path: Path) -> None:
    space = RoutingSpace((16,), (16,), (3,))
    canet = toy(space, has_router=False, in_projection=False, tied=True)
    for quantization in PRESETS:
        check_all(exported(tmp_path / quantization, make_job(canet, quantization)))


@pytest.mark.parametrize("quantization", PRESETS)
def test_a_plain_graph_takes_many_histories(quantization: str, tmp_path: Path) -> None:
    route = Route(16, 8, 4)
    job = make_job(toy(SPACE), quantization, [route], plain=True)
    found = exported(tmp_path, job)
    for seq in histories(3):
        check_route(found, seq, route, [])
    assert [value.name for value in found.session.get_inputs()] == ["seq"]
    assert not {"Slice", "If"} & operators(tmp_path)
    assert found.result.interface == {"style": "one_graph", "plain": True}
    together = np.stack(histories(5))
    answered, scores, ids = found.answer(together)
    assert answered.tolist() == [job.canet.space.id_of(route)]
    assert scores.shape == ids.shape == (5, K)
    if quantization == "int8":  # one range of activations for the whole batch
        return
    for row, seq in enumerate(histories(5)):
        assert np.allclose(scores[row], found.answer(seq)[1][0], atol=1e-5)


def test_the_ort_file_answers_alike_and_names_its_operators(tmp_path: Path) -> None:
    found = exported(tmp_path, make_job(toy(SPACE), "int8"))
    same = replace(found, session=open_session(tmp_path / "canet.ort"))
    for seq in histories(3):
        for force in (ASK, ROUTER_ALONE, 0, len(SPACE) - 1):
            for ours, theirs in zip(found.answer(seq, force), same.answer(seq, force), strict=True):
                assert np.allclose(ours, theirs, atol=1e-5)
    listed = (tmp_path / "required_operators.config").read_text(encoding="utf-8")
    assert "com.microsoft;1;BiasGelu,DynamicQuantizeMatMul,MultiHeadAttention" in listed


def test_an_ort_file_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    for seed in (3, 4):
        exported(tmp_path / str(seed), make_job(toy(SPACE, seed=seed), "fp32"))
    one = {"force_route": np.array([2], np.int32), "point": np.array([BALANCED], np.int32)}
    feeds = [{"seq": histories(1)[0][None], **one}]
    source = tmp_path / "3" / "canet.onnx"
    require_same_answers(source, tmp_path / "3" / "canet.ort", feeds)
    with pytest.raises(CanetError, match=r"does not answer as canet\.onnx does"):
        require_same_answers(source, tmp_path / "4" / "canet.ort", feeds)


def test_sizes_add_up(tmp_path: Path) -> None:
    for quantization in PRESETS:
        found = exported(tmp_path / quantization, make_job(toy(SPACE), quantization))
        sizes = found.result.sizes
        parts = ("item_table", "classifier", "layers", "router", "graph")
        assert sum(getattr(sizes, f"{part}_bytes") for part in parts) == sizes.total_bytes
        width = {"fp32": 4, "fp16": 2, "int8": 1}[quantization]
        scale = 4 if quantization == "int8" else 0
        assert sizes.item_table_bytes == (ITEMS + 1) * (24 * width + scale)
        assert sizes.classifier_bytes == (ITEMS + 1) * (24 * width + scale + 4)
        alone = exported(
            tmp_path / "alone", make_job(toy(SPACE), quantization, [SPACE.largest], plain=True)
        ).result.sizes.total_bytes
        assert sizes.full_model_alone_bytes == pytest.approx(alone, rel=0.01)
    tied = exported(tmp_path / "tied", make_job(toy(SPACE, tied=True), "int8")).result.sizes
    assert tied.item_table_bytes == (ITEMS + 1) * (24 + 4)
    assert tied.classifier_bytes == (ITEMS + 1) * 4


def test_a_missing_toolkit_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = make_job(toy(SPACE), "fp32")
    for module in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(CanetError) as error:
                exported(tmp_path, job)
            assert "pip install 'canet-mobile[onnx]'" in str(error.value)
    assert not list(tmp_path.iterdir())


def operators(folder: Path) -> set[str]:
    """The operators of the .onnx, branches included."""
    import onnx

    graphs, found = [onnx.load(folder / "canet.onnx").graph], set()
    while graphs:
        for node in graphs.pop().node:
            found.add(node.op_type)
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found
