"""A comparison as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from canet_mobile.compare.document import FLOORS
from canet_mobile.compare.tables import first_line, introduction, tables
from canet_mobile.evaluate.metrics import METRICS
from canet_mobile.evaluate.scoring import PROTOCOLS


def markdown(document: Mapping[str, Any]) -> str:
    """The whole comparison as Markdown."""
    parts = [f"# Methods compared on {document['dataset']['name']}", introduction(document)]
    parts.append("\n".join(f"- {sentence}" for sentence in document["verdict"]))
    for table in tables(document):
        lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)], *table.rows]
        body = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
        parts.append(f"## {table.title}\n\n{table.note}\n\n{body}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def csv_text(document: Mapping[str, Any]) -> str:
    """One line per method and protocol with unrounded figures; floors and failed methods included."""
    out = io.StringIO()
    names = [f"{part}{name}" for name in METRICS for part in ("", "se_")]
    columns = ["method", "title", "group", "protocol", "status", "reason", "seeds", *names]
    columns += ["paper_mflops", "se_paper_mflops", "executed_mflops", "share_of_full"]
    columns += ["routes_used", "normalised_entropy", "largest_share", "epochs", "converged"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for protocol in PROTOCOLS:
        for name, title in FLOORS.items():
            line = {"method": name, "title": title, "group": "floor", "protocol": protocol, "status": "ok"}
            writer.writerow(line | document["floors"][name][protocol])
        for row in document["methods"]:
            writer.writerow(_csv_line(row, protocol))
    return out.getvalue()


def _csv_line(row: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    line = {
        "method": row["name"],
        "protocol": protocol,
        **{key: row[key] for key in ("title", "group", "status")},
    }
    line["reason"] = "; ".join(f"seed {f['seed']}: {first_line(f['reason'])}" for f in row["failures"])
    line["seeds"] = len(row["runs"])
    if row["metrics"] is None:
        return line
    for name, found in row["metrics"][protocol].items():
        line |= {name: found["mean"], f"se_{name}": found["se"]}
    line |= {"paper_mflops": row["paper_mflops"]["mean"], "se_paper_mflops": row["paper_mflops"]["se"]}
    line |= {"share_of_full": row["share_of_full"]}
    if row["executed_mflops"] is not None:
        line["executed_mflops"] = row["executed_mflops"]["mean"]
    if row["routing"] is not None:
        line |= {
            key: row["routing"][key]["mean"] for key in ("routes_used", "normalised_entropy", "largest_share")
        }
    epochs = " ".join(str(run["epochs"]) for run in row["runs"])
    return line | {"epochs": epochs, "converged": sum(run["converged"] for run in row["runs"])}
