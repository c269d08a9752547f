"""The figures of a comparison: accuracy against cost, paired differences, route use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from canet_mobile.compare.contrasts import FULL, HEADLINERS, pair_of, row_of
from canet_mobile.compare.statistics import mflops, signed
from canet_mobile.compare.svg import (
    CHARACTER,
    LINE,
    Box,
    Scale,
    element,
    figure,
    line,
    number,
    padded,
    place_label,
    text,
)

WIDTH = 760.0
ROW = 24.0
REFERENCE = "canet-paper"
ROUTES_SHOWN = 12
LEAST_COST = 0.001  # MFLOPs; costs are rounded to this, and 0 has no place on a logarithmic scale

Figure = tuple[str, str, str]  # heading, caption, SVG


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """Every figure that has something to show."""
    names = [row["name"] for row in document["methods"]]
    by_group = {
        group: [row["name"] for row in document["methods"] if row["group"] == group]
        for group in ("losses", "spaces", "granularity")
    }
    found = [
        _scatter(document),
        _intervals(
            document, names, FULL, "Difference from SASRec-full",
            "Each method's NDCG@10 minus that of SASRec-full, user by user. A line that crosses zero is no "
            "difference that these users can show; right of zero is better.",
        ),
        _intervals(
            document, by_group["losses"], REFERENCE, "What the two extra losses do (Fig. 4)",
            "CANet by the paper's recipe without its uniform loss (-u), without its guide loss (-g) and "
            "without both (-ug), against the recipe as published. Without the uniform loss a router is free "
            "to settle on few routes; without the guide loss nothing tells it which users are easy. Read "
            "the cost beside the line: a variant may keep its accuracy only because it sends everybody to "
            "large routes.",
        ),
        _intervals(
            document, by_group["spaces"], REFERENCE, "Routing one dimension at a time (Fig. 5)",
            "Routing over depth alone (every number of blocks, full width) and over embedding size alone "
            "(full width and depth), against all three dimensions together. Depth alone cannot touch the "
            "classifier's cost, and embedding size alone saves hardly any computation, since only the input "
            "projection shrinks with it.",
        ),
        _intervals(
            document, by_group["granularity"], REFERENCE, "Coarse and fine routing spaces (Fig. 7)",
            "The paper's recipe over a coarse space (smallest and largest value of each dimension) and a "
            "fine one (widths halfway between as well), against the usual space. More routes fit users more "
            "closely, but the same training is shared among more of them.",
        ),
        *(_route_use(document, name) for name in HEADLINERS),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _kind(name: str) -> str:
    """The colour class of a method."""
    return "canet" if name.startswith("canet") else "sasrec" if name.startswith("sasrec") else "other"


def _scatter(document: Mapping[str, Any]) -> Figure | None:
    """Accuracy against cost; whiskers are standard errors over seeds."""
    protocol = document["protocol"]
    rows = [row for row in document["methods"] if row["metrics"] is not None]
    if not rows:
        return None
    height, left, right, top, bottom = 420.0, 60.0, WIDTH - 16, 14.0, 372.0
    points = [
        (row, row["metrics"][protocol]["ndcg@10"], max(row["paper_mflops"]["mean"], LEAST_COST))
        for row in rows
    ]
    ends = [found["mean"] + sign * (found["se"] or 0.0) for _, found, _ in points for sign in (-1, 1)]
    markov = document["floors"]["markov"][protocol]["ndcg@10"]
    x = Scale(
        min(cost for *_, cost in points) * 0.8, max(cost for *_, cost in points) * 1.6, left, right, log=True
    )
    y = Scale(*padded([*ends, markov]), bottom, top)
    marks = [line(left, y(tick), right, y(tick), "grid") for tick in y.ticks()]
    marks += [text(left - 6, y(tick) + 4, number(tick), anchor="end", class_="tick") for tick in y.ticks()]
    marks += [text(x(tick), bottom + 18, number(tick), anchor="middle", class_="tick") for tick in x.ticks()]
    marks += [line(x(tick), bottom, x(tick), bottom + 4, "axis") for tick in x.ticks()]
    marks.append(line(left, bottom, right, bottom, "axis"))
    marks.append(
        text((left + right) / 2, height - 8, "paper MFLOPs of an average request (log)", anchor="middle")
    )
    marks.append(text(left, top - 2, f"NDCG@10, seen={protocol}"))
    marks.append(line(left, y(markov), right, y(markov), "floor"))
    marks.append(text(right, y(markov) - 4, "first-order Markov", anchor="end", class_="tick"))
    taken = [Box(right - CHARACTER * 18, y(markov) - 15, right, y(markov) + 2)]
    for row, found, cost in points:
        at, level, kind = x(cost), y(found["mean"]), _kind(row["name"])
        half = y.size(found["se"] or 0.0)
        marks.append(line(at, level - half, at, level + half, f"whisker {kind}"))
        tip = element("title", escape(f"{row['title']}: {found['mean']:.4f} at {mflops(cost)} MFLOPs"))
        size = 5 if row["group"] == "table" else 3
        marks.append(element("circle", tip, cx=at, cy=level, r=size, class_=f"dot {kind}"))
        taken.append(Box(at - 6, level - half - 6, at + 6, level + half + 6))
    for row, found, cost in sorted(points, key=lambda point: -point[1]["mean"]):
        if row["group"] != "table":
            continue
        at, level, anchor = place_label(x(cost), y(found["mean"]), row["title"], taken, WIDTH)
        marks.append(text(at, level, row["title"], anchor=anchor))
        if abs(level - LINE / 4 - y(found["mean"])) > 1:
            marks.append(line(x(cost), y(found["mean"]), at, level - LINE / 4, "leader"))
    caption = (
        "Up is better, left is cheaper. A method below the dashed line is beaten by counting which item "
        "followed which. Small dots are the variants of the figures below; whiskers are standard errors "
        "over seeds."
    )
    described = "; ".join(
        f"{row['title']} {found['mean']:.4f} at {mflops(cost)} MFLOPs" for row, found, cost in points
    )
    return "Accuracy against cost", caption, figure(WIDTH, height, "Accuracy against cost", described, marks)


def _intervals(
    document: Mapping[str, Any], names: Sequence[str], reference: str, heading: str, caption: str
) -> Figure | None:
    """One line per method: its paired difference to a reference with the 95 % interval, and its cost."""
    base = row_of(document, reference)
    pairs = [(name, pair_of(document, name, reference)) for name in names if name != reference]
    shown = [(row, pair) for name, pair in pairs if pair is not None and (row := row_of(document, name))]
    if base is None or not shown:
        return None
    left, right, top = 190.0, WIDTH - 200, 10.0
    bottom = top + ROW * (len(shown) + 1)
    ends = [0.0, *(end for _, pair in shown for end in (pair["low"], pair["high"]))]
    x = Scale(*padded(ends), left, right)
    marks = [line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks()]
    marks += [text(x(tick), bottom + 16, number(tick), anchor="middle", class_="tick") for tick in x.ticks()]
    marks.append(line(x(0), top, x(0), bottom, "zero"))
    marks.append(element("circle", cx=x(0), cy=top + ROW / 2, r=5, class_=f"dot {_kind(reference)}"))
    marks.append(text(left - 10, top + ROW / 2 + 4, base["title"], anchor="end"))
    marks.append(text(right + 10, top + ROW / 2 + 4, _cost(base, "the reference"), class_="tick"))
    for position, (row, pair) in enumerate(shown, start=1):
        level, kind = top + ROW * (position + 0.5), _kind(row["name"])
        marks.append(line(x(pair["low"]), level, x(pair["high"]), level, f"whisker {kind}"))
        marks.append(element("circle", cx=x(pair["difference"]), cy=level, r=5, class_=f"dot {kind}"))
        marks.append(text(left - 10, level + 4, row["title"], anchor="end"))
        marks.append(text(right + 10, level + 4, _cost(row, f"{signed(pair['difference'])}"), class_="tick"))
    marks.append(
        text((left + right) / 2, bottom + 34, f"NDCG@10 minus that of {base['title']}", anchor="middle")
    )
    described = "; ".join(
        f"{row['title']} {signed(pair['difference'])}, from {signed(pair['low'])} to {signed(pair['high'])}"
        for row, pair in shown
    )
    return heading, caption, figure(WIDTH, bottom + 42, heading, described, marks)


def _cost(row: Mapping[str, Any], said: str) -> str:
    return f"{said}, {mflops(row['paper_mflops']['mean'])} MFLOPs"


def _route_use(document: Mapping[str, Any], name: str) -> Figure | None:
    """Fig. 6: two bars per route in use, all users and tail users."""
    row = row_of(document, name)
    if row is None or row["routing"] is None:
        return None
    use = sorted(row["routing"]["use"], key=lambda route: -route["all"])
    shown, rest = use[:ROUTES_SHOWN], use[ROUTES_SHOWN:]
    if rest:
        sums = {kind: sum(route[kind] for route in rest) for kind in ("all", "tail")}
        shown = [*shown, {"entry": f"{len(rest)} other routes", **sums}]
    left, right, top, step = 190.0, WIDTH - 70, 30.0, 32.0
    bottom = top + step * len(shown)
    x = Scale(0, 1, left, right)
    marks = [line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks()]
    marks += [text(x(tick), bottom + 16, f"{tick:.0%}", anchor="middle", class_="tick") for tick in x.ticks()]
    for at, (kind, said) in zip((left, left + 110), _KINDS.items(), strict=True):
        marks.append(element("rect", x=at, y=8.0, width=10.0, height=10.0, class_=f"bar {kind}"))
        marks.append(text(at + 15, 17, said))
    for position, route in enumerate(shown):
        level = top + step * position + 4
        marks.append(text(left - 10, level + 15, route["entry"], anchor="end"))
        for shift, kind in ((0.0, "all"), (12.0, "tail")):
            width = max(x(route[kind]) - left, 0.5)
            marks.append(
                element("rect", x=left, y=level + shift, width=width, height=11.0, class_=f"bar {kind}")
            )
            marks.append(text(left + width + 5, level + shift + 9, f"{route[kind]:.1%}", class_="tick"))
    heading = f"Routes of {row['title']} (Fig. 6)"
    caption = (
        "Share of users that the router sends to each route, for all users and for those who mostly take "
        "unpopular items. If the two bars of a route differ, the router tells these users apart; one long "
        "pair of bars is a collapsed router."
    )
    described = "; ".join(
        f"{r['entry']}: {r['all']:.1%} of all, {r['tail']:.1%} of tail users" for r in shown
    )
    return heading, caption, figure(WIDTH, bottom + 24, heading, described, marks)


_KINDS = {"all": "all users", "tail": "tail users"}
