"""How `mplug eval search` shows what it measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from mplug.score_fusion import Order
from mplug_services.cli.common import results
from mplug_services.client import ModelVersion, ScoreFusion
from mplug_services.evaluation.advice import Advice, Choice, Difference
from mplug_services.evaluation.search_quality import OrderQuality, QualityRow

_NAMES = {Order.ITC: "ITC", Order.ITM: "ITM", Order.BOTH: "both"}


@dataclass(frozen=True, slots=True, eq=False)
class SearchReport:
    """What was measured, and what follows from it."""

    collection: str
    fusion: ScoreFusion
    """What BOTH stands for."""
    model: ModelVersion
    rerank_model: ModelVersion | None
    text_count: int
    truncated_count: int
    """Texts that were longer than the model reads."""
    text_rows: list[QualityRow]
    image_count: int
    image_row: QualityRow | None
    budget: float | None
    """Seconds."""
    advice: Advice | None
    """None where nothing was reranked."""


def report_facts(report: SearchReport) -> dict[str, object]:
    """What was measured, as JSON values; times are in milliseconds."""
    models = {"model": report.model, "rerank_model": report.rerank_model}
    return {
        "collection": report.collection,
        "fusion": str(report.fusion),
        **{
            key: model and {"name": model.name, "fingerprint": model.fingerprint}
            for key, model in models.items()
        },
        "text_queries": report.text_count,
        "truncated_queries": report.truncated_count,
        "rows": [_row_facts(row) for row in report.text_rows],
        "image_queries": report.image_count,
        "image_row": report.image_row and _image_facts(report.image_row),
        "budget_ms": report.budget and _milliseconds(report.budget),
        "advice": report.advice and _advice_facts(report.advice, report.fusion),
    }


def print_report(report: SearchReport) -> None:
    """Prints tables and advice for a reader."""
    console = results()
    if report.text_rows:
        models = " + ".join(each.name for each in (report.model, report.rerank_model) if each)
        title = f"queries by text: {report.text_count}, in {report.collection}, by {models}"
        console.print(_table(title, report.text_rows, list(Order)))
    if report.image_row is not None:
        title = f"queries by picture: {report.image_count}, in {report.collection}, by {report.model.name}"
        console.print(_table(title, [report.image_row], [Order.ITC]))
    for line in _closing(report):
        console.print(line, markup=False, soft_wrap=True)


def _table(title: str, rows: list[QualityRow], orders: list[Order]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    table.add_column("K", justify="right", no_wrap=True)
    table.add_column("order", no_wrap=True)
    for column in ("R@1", "R@5", "R@10", "nDCG@10", "p50 ms", "p95 ms", "reranking ms"):
        table.add_column(column, justify="right")
    for row in rows:
        mark = "*" if row.incomplete else ""
        reranking = row.rerank_p50 if row.rerank_top_k else None
        times = ["" if each is None else f"{each * 1000:.1f}" for each in (row.p50, row.p95, reranking)]
        for number, order in enumerate(orders):
            first = [f"{row.rerank_top_k}{mark}", *times] if number == 0 else [""] * 4
            table.add_row(first[0], _NAMES[order], *_quality_cells(row.orders[order], mark), *first[1:])
        table.add_section()
    return table


def _quality_cells(quality: OrderQuality, mark: str) -> list[str]:
    recall = quality.recall
    shares = [f"{share:.1f}{mark}" for share in (recall.at_1, recall.at_5, recall.at_10)]
    return [*shares, f"{quality.ndcg:.3f}{mark}"]


def _closing(report: SearchReport) -> Iterator[str]:
    incomplete = [
        f"K = {row.rerank_top_k}: {row.incomplete} of {report.text_count}"
        for row in report.text_rows
        if row.incomplete
    ]
    if report.image_row is not None and report.image_row.incomplete:
        incomplete.append(f"pictures: {report.image_row.incomplete} of {report.image_count}")
    if incomplete:
        yield (
            f"* searches without an answer or with fewer hits reranked than K: {', '.join(incomplete)}. The "
            "--timeout came first, the server was too busy, or it does not keep the pictures."
        )
    if report.truncated_count:
        yield f"{report.truncated_count} texts are longer than the model reads; their ends were left out"
    if report.advice is not None:
        yield from advice_lines(report.advice, report.fusion, report.budget)
    elif report.text_rows:
        yield "no advice: nothing was reranked"
    else:
        yield "no advice: reranking matches pictures with a text, and no query has one"


def advice_lines(advice: Advice, fusion: ScoreFusion, budget: float | None) -> Iterator[str]:
    """What to set, and why."""
    advised = advice.advised
    count = advised.row.rerank_top_k
    within = "" if budget is None else f" within {budget * 1000:g} ms"
    best = f"the best{within}: {_gain(advice.best, advice.best_gain)}"
    if count:
        setting = fusion_setting(advised.order, fusion)
        flags = f"mplug search --rerank {count} --fusion {setting}"
        yield f"advised: rerank_top_k = {count}, score_fusion = {setting} ({flags})"
        yield f"  {_gain(advised, advice.gain)}"
        if advice.best is not advised:
            yield f"  about as good as {best}"
    elif not advice.within_budget:
        yield f"advised: rerank_top_k = 0, and even so p95 is not{within}: it is {advised.row.p95 * 1000:.1f} ms"
    elif advice.best is advised:
        yield f"advised: rerank_top_k = 0. Reranking does not help: nothing{within} is better than ITC alone"
    else:
        yield "advised: rerank_top_k = 0. Reranking does not help clearly"
        yield f"  {best}"
    if advised.row.incomplete or advice.best.row.incomplete:
        yield "  by what was reranked: see *"


def fusion_setting(order: Order, fusion: ScoreFusion) -> ScoreFusion:
    """The score_fusion that gives an order of reranked hits."""
    return fusion if order is Order.BOTH else ScoreFusion.MATCH


def _gain(choice: Choice, gain: Difference) -> str:
    return (
        f"K = {choice.row.rerank_top_k} by {_NAMES[choice.order]}, nDCG@10 {choice.quality.ndcg:.3f}, "
        f"{gain.mean:+.3f} ± {gain.standard_error:.3f} against no reranking"
    )


def _row_facts(row: QualityRow) -> dict[str, object]:
    return {
        "rerank_top_k": row.rerank_top_k,
        **{str(order): _quality_facts(quality) for order, quality in row.orders.items()},
        **_time_facts(row),
        "reranking_p50_ms": None if row.rerank_p50 is None else _milliseconds(row.rerank_p50),
        "incomplete_queries": row.incomplete,
    }


def _image_facts(row: QualityRow) -> dict[str, object]:
    return {
        str(Order.ITC): _quality_facts(row.orders[Order.ITC]),
        **_time_facts(row),
        "incomplete_queries": row.incomplete,
    }


def _time_facts(row: QualityRow) -> dict[str, object]:
    return {"p50_ms": _milliseconds(row.p50), "p95_ms": _milliseconds(row.p95)}


def _quality_facts(quality: OrderQuality) -> dict[str, float]:
    recall = quality.recall
    return {
        "recall_at_1": recall.at_1,
        "recall_at_5": recall.at_5,
        "recall_at_10": recall.at_10,
        "ndcg_at_10": quality.ndcg,
    }


def _advice_facts(advice: Advice, fusion: ScoreFusion) -> dict[str, object]:
    advised = advice.advised
    setting = str(fusion_setting(advised.order, fusion)) if advised.row.rerank_top_k else None
    return {
        **_choice_facts(advised, advice.gain),
        "score_fusion": setting,
        "within_budget": advice.within_budget,
        "best": _choice_facts(advice.best, advice.best_gain),
    }


def _choice_facts(choice: Choice, gain: Difference) -> dict[str, object]:
    return {
        "rerank_top_k": choice.row.rerank_top_k,
        "order": str(choice.order),
        "ndcg_gain": gain.mean,
        "standard_error": gain.standard_error,
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
