"""What the default recipe is held to, one line per data set, and what each of its parts is worth."""

from __future__ import annotations

from typing import Any

from canet_mobile.compare.methods import is_plain_sasrec
from canet_mobile.compare.statistics import over_seeds
from canet_mobile.routing.advice import ships_router
from canet_mobile.run.config import BEFORE, TrainConfig
from canet_mobile.ties import best

Records = dict[str, list[dict[str, Any]]]
COLUMNS = (
    "data set (seeds)", "NDCG@10 ± over users", "of full's FLOPs", "/ SASRec-full", "/ largest route",
    "/ SASRec nearest in cost", "/ paper's recipe (its FLOPs)", "/ Markov chain",
    "against random routing", "routes / twins",
    "`train` says: ship", "that / largest route, of full's FLOPs",
)  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
PARTS_HEADER = (
    "| data set (seeds) | in place of the default | routed NDCG@10, default | exchanged | ratio "
    "| mean over routes | largest route |\n|---|---|---|---|---|---|---|\n"
)
BUDGET_HEADER = (
    "| data set (seeds) | budget | of full's FLOPs | NDCG@10 | / largest route | against random routing "
    "| `train` says: ship |\n|---|---|---|---|---|---|---|\n"
)
POLISH_HEADER = (
    "| data set (seeds) | validation users asked | NDCG@10 gained | epochs | kept |\n|---|---|---|---|---|\n"
)

# What has been the default recipe, today's first, and what a part that is measured against it has in common
# with it, where a mark does not say so.
DEFAULTS = {
    "canet": "",
    "canet-dearer": " (both at a budget of 0.3)",
    "canet-selftaught": "",
    "canet-closed": "",
    "canet-fixed": " (both with fixed windows)",
    "canet-gain": " (both with expected gains, fixed windows)",
}
# The keys that make a recipe.
RECIPE_KEYS = (
    "residual", "residual_power", "beta2", "cooccurrence", "moving", "router_label", "router_table",
    "average", "tied", "recipe", "polish", "budget",
)  # fmt: skip
DAGGER = " †"  # trained before blocks acted from the start
DOUBLE_DAGGER = " ‡"  # CANet, trained before neighbours had a say in what the average teaches


def mean(values: list[float]) -> float:
    """The mean of one figure per seed."""
    return sum(values) / len(values)


def spread(gaps: list[dict[str, float]]) -> float:
    """The larger of the standard errors over users (of the mean of the seeds) and over seeds."""
    over_users = mean([gap["se"] for gap in gaps])
    return max(over_users, over_seeds([gap["value"] for gap in gaps])["se"] or 0.0)


def against_itself(ours: list[dict[str, Any]], together: dict[str, Any] | None) -> tuple[float, str]:
    """CANet over its largest route, and NDCG@10 gained over random routing with its standard error.

    Args:
        ours: its records, one per seed.
        together: the record of routing_over_seeds.py, on all test users; used if it is of the same seeds.
    """
    if together is not None and [s["seed"] for s in together["seeds"]] == [r["seed"] for r in ours]:
        quality, largest, gain, error = _of_seeds(together)
        return quality / largest, f"{gain:+.4f} ± {error:.4f}"
    seen = ours[0]["config"]["seen"]
    each = [record["evaluation"] for record in ours]
    quality = mean([evaluation["routed"][seen]["ndcg@10"] for evaluation in each])
    largest = mean([evaluation["routes"][-1][seen]["ndcg@10"] for evaluation in each])
    gaps = [evaluation["routing"]["random"] for evaluation in each if evaluation["routing"]["random"]]
    against = [gap[seen]["difference"]["ndcg@10"] for gap in gaps]
    if not against:
        return quality / largest, "one route"
    return quality / largest, f"{mean([gap['value'] for gap in against]):+.4f} ± {spread(against):.4f}"


def _of_seeds(together: dict[str, Any]) -> tuple[float, float, float, float]:
    """NDCG@10 as routed and of the largest route, and what routing gains over chance with its error."""
    quality, largest = (mean([seed[name] for seed in together["seeds"]]) for name in ("ndcg10", "largest"))
    gap = together["random"]
    return quality, largest, gap["value"], max(gap["se_users"], gap["se_seeds"] or 0.0)


def budget_row(data: str, budget: float, together: dict[str, Any]) -> str:
    """One budget's line on all test users, from a record of routing_over_seeds.py."""
    seeds = together["seeds"]
    quality, largest, gain, error = _of_seeds(together)
    cells = (
        f"{data} ({len(seeds)})",
        f"{budget:g}",
        f"{mean([seed['share_of_full'] for seed in seeds]):.0%}",
        f"{quality:.4f}",
        f"{quality / largest:.3f}",
        f"{gain:+.5f} ± {error:.5f}",
        ", ".join(_to_ship(seed["advice"]) for seed in seeds),
    )
    return f"| {' | '.join(cells)} |\n"


def claims_row(data: str, found: Records, together: dict[str, Any] | None = None) -> str:
    """The line of one data set under the protocol of its validation; nothing without a record of CANet.

    A ratio compares seeds that both have; ``together`` as for :func:`against_itself`.
    """
    ours = default_runs(found)
    if not ours:
        return ""
    seen = ours[0]["config"]["seen"]
    each = [record["evaluation"] for record in ours]
    cost = mean([evaluation["costs"]["paper_mflops"] for evaluation in each])
    full = each[0]["costs"]["sasrec_full_paper_mflops"]
    quality = mean([evaluation["routed"][seen]["ndcg@10"] for evaluation in each])
    of_largest, over_random = against_itself(ours, together)
    papers = found.get("canet-paper", [])
    plain = {name: seeds for name, seeds in found.items() if is_plain_sasrec(name)}
    nearest = best(plain, lambda name: -abs(_cost(plain[name][0]) - cost)) if plain else ""
    size = f" ({nearest.removeprefix('sasrec-')})" if nearest else ""
    ratios = [ratio for _, _, _, ratio in twins(found)]
    cells = (
        f"{data} ({len(ours)}){mark(ours[0])}",
        f"{quality:.4f} ± {mean([evaluation['routed'][seen]['se_ndcg@10'] for evaluation in each]):.4f}",
        f"{cost / full:.0%}",
        _against(ours, plain.get("sasrec-full", []), seen),
        f"{of_largest:.3f}",
        f"{_against(ours, plain.get(nearest, []), seen)}{size}",
        _against(ours, papers, seen) + (f" ({mean(list(map(_cost, papers))) / full:.0%})" if papers else ""),
        f"{quality / each[0]['floors']['markov'][seen]['ndcg@10']:.2f}",
        over_random,
        f"{mean(ratios):.3f} ({len(ratios)})" if ratios else "not run",
        ", ".join(advised(ours)),
        _as_advised(ours, seen),
    )
    return f"| {' | '.join(cells)} |\n"


def parts_rows(data: str, found: Records, titles: dict[str, str]) -> str:
    """Lines of one data set: the default recipe over itself with one part exchanged, on common seeds.

    Args:
        data: the data set's name.
        found: its records.
        titles: experiment -> what is exchanged.
    """
    text = ""
    for name, title in titles.items():
        others = found.get(name, [])
        reference = _reference(name, others[0], found) if others else "canet"
        ours, others = _common(found.get(reference, []), others)
        if not ours:
            continue
        seen = ours[0]["config"]["seen"]
        with_it, without = (
            {
                "routed": mean([record["evaluation"]["routed"][seen]["ndcg@10"] for record in records]),
                "routes": mean([mean(_each_route(record, seen)) for record in records]),
                "largest": mean([_each_route(record, seen)[-1] for record in records]),
            }
            for records in (ours, others)
        )
        ratios = [f"{with_it[key] / without[key]:.3f}" for key in ("routed", "routes", "largest")]
        cells = (
            f"{data} ({len(ours)})",
            title + DEFAULTS[reference] + mark(ours[0]),
            f"{with_it['routed']:.4f}",
            f"{without['routed']:.4f}",
            *ratios,
        )
        text += f"| {' | '.join(cells)} |\n"
    return text


def polish_rows(data: str, found: Records) -> str:
    """What validation users said of polishing, seed by seed; nothing of a data set where it was not tried."""
    tried = [record for record in found.get("canet-polished", []) if record.get("polish")]
    if not tried:
        return ""
    each = [record["polish"] for record in tried]
    cells = (
        f"{data} ({len(tried)})",
        f"{each[0]['users']:,}",
        ", ".join(f"{one['gain']['value']:+.4f} ± {one['gain']['se']:.4f}" for one in each),
        ", ".join(
            f"{one['epochs']} of {record['config']['polish']}"
            for one, record in zip(each, tried, strict=True)
        ),
        ", ".join("yes" if one["kept"] else "no" for one in each),
    )
    return f"| {' | '.join(cells)} |\n"


def _reference(name: str, other: dict[str, Any], found: Records) -> str:
    """The default, or what it was then, from which a record differs in the fewest keys.

    What has been the default itself is compared with what followed it.
    """
    younger = list(DEFAULTS)[: list(DEFAULTS).index(name) if name in DEFAULTS else None]
    there = [reference for reference in younger if found.get(reference)]
    return min(there, key=lambda reference: _apart(found[reference][0], other), default="canet")


def _apart(first: dict[str, Any], second: dict[str, Any]) -> int:
    """In how many keys of the recipe two runs differ."""
    left, right = ({**BEFORE, **record["config"]} for record in (first, second))
    return sum(left.get(key) != right.get(key) for key in RECIPE_KEYS)


def default_runs(found: Records) -> list[dict[str, Any]]:
    """CANet by the default recipe; by what the default was until then, where more seeds were run of that."""
    today, before = (found.get(name, []) for name in ("canet", "canet-selftaught"))
    return before if len(before) > len(today) else today


def starts_open(record: dict[str, Any]) -> bool:
    """Whether the first block of a run acted from the first step."""
    return float(record["config"]["residual"]) >= TrainConfig().residual


def mark(record: dict[str, Any]) -> str:
    """What the tables put behind the name of a run that today's default recipe has left behind."""
    if not starts_open(record):
        return DAGGER
    config = {**BEFORE, **record["config"]}
    return "" if config["model"] != "canet" or config["cooccurrence"] else DOUBLE_DAGGER


def _each_route(record: dict[str, Any], seen: str) -> list[float]:
    return [route[seen]["ndcg@10"] for route in record["evaluation"]["routes"]]


def twins(found: Records) -> list[tuple[str, float, float, float]]:
    """Every plain SASRec beside the route of its size: entry, NDCG@10 of both, and their ratio.

    Both are means over the seeds that both have.
    """
    rows = []
    for name, seeds in found.items():
        if not is_plain_sasrec(name):
            continue
        config = seeds[0]["config"]
        entry = f"e{config['embedding'][0]}_h{config['hidden'][0]}_d{config['depth'][0]}"
        ours, alone = _common(default_runs(found), seeds)
        seen = config["seen"]
        own = [
            route[seen]["ndcg@10"]
            for record in ours
            for route in record["evaluation"]["routes"] or ()
            if route["entry"] == entry
        ]
        if own:
            twin = mean([record["evaluation"]["routed"][seen]["ndcg@10"] for record in alone])
            rows.append((entry, mean(own), twin, mean(own) / twin))
    return rows


def _common(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    both = {record["seed"] for record in first} & {record["seed"] for record in second}
    return [r for r in first if r["seed"] in both], [r for r in second if r["seed"] in both]


def _cost(record: dict[str, Any]) -> float:
    return float(record["evaluation"]["costs"]["paper_mflops"])


def _against(ours: list[dict[str, Any]], others: list[dict[str, Any]], seen: str) -> str:
    """The ratio of mean NDCG@10 over common seeds."""
    left, right = (
        [record["evaluation"]["routed"][seen]["ndcg@10"] for record in records]
        for records in _common(ours, others)
    )
    return f"{mean(left) / mean(right):.3f}" if left else "not run"


def _as_advised(ours: list[dict[str, Any]], seen: str) -> str:
    """What each seed was told to ship: its NDCG@10 over the largest route's, and its share of full's cost."""
    told = [record for record in ours if _advice(record) != "–"]
    if not told:
        return "–"
    full = told[0]["evaluation"]["costs"]["sasrec_full_paper_mflops"]
    largest = mean([_each_route(record, seen)[-1] for record in told])
    quality, cost = (mean(list(values)) for values in zip(*(_shipped(r, seen) for r in told), strict=True))
    return f"{quality / largest:.3f}, {cost / full:.0%}"


def _shipped(record: dict[str, Any], seen: str) -> tuple[float, float]:
    """NDCG@10 and paper MFLOPs of what was advised: the router, or one route for everybody."""
    evaluation, advised = record["evaluation"], _advice(record)
    if advised == "the router":
        return evaluation["routed"][seen]["ndcg@10"], _cost(record)
    route = next(route for route in evaluation["routes"] if route["entry"] == advised)
    return route[seen]["ndcg@10"], route["paper_mflops"]


def advised(ours: list[dict[str, Any]]) -> list[str]:
    """What to ship, seed by seed."""
    return [_advice(record) for record in ours]


def _advice(record: dict[str, Any]) -> str:
    """By the rule of the day from what validation users said then."""
    found = record["routing"].get("advice")
    if found is None or "against_random" not in found:
        return "–"
    return _to_ship(found)


def _to_ship(advice: dict[str, Any]) -> str:
    """The router where it pays, or the route for everybody."""
    return "the router" if ships_router(advice) else str(advice["fixed"])
