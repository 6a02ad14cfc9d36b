"""How well the right passages are found: recall@k, precision@k, success@k, MRR@10, nDCG@10 and MAP.

In: rankings (query -> documents, best first) and qrels (query -> relevant documents). Out: each
metric's value for each query, computed by ir-measures; and both in TREC's text formats.

Relevant to a question are the records that its `answer_ids` name, and the records with the very same
answer text, since each of these answers it in full. Questions that nothing answers have no qrels and
are not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ragray.schema import EvalQuestion, Passage

Qrels = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Sequence[str]]

# Metric -> its name in ir-measures. success@k: share of queries with any relevant document in the first k.
METRICS = {
    "recall@1": "R@1",
    "recall@3": "R@3",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "precision@3": "P@3",
    "precision@5": "P@5",
    "precision@10": "P@10",
    "success@1": "Success@1",
    "success@5": "Success@5",
    "mrr@10": "RR@10",
    "ndcg@10": "nDCG@10",
    "map": "AP",
}


def relevant_documents(questions: Sequence[EvalQuestion], passages: Sequence[Passage]) -> dict[str, dict[str, int]]:
    """The qrels of the answerable questions: their records, and those with the same answer text."""
    text_of = {p.doc_id: _comparable(p.text) for p in passages if p.kind == "faq"}
    ids_of: defaultdict[str, set[str]] = defaultdict(set)
    for doc_id, text in text_of.items():
        ids_of[text].add(doc_id)
    qrels = {}
    for question in questions:
        named = set(question.answer_ids)
        alike = {other for doc_id in named & set(text_of) for other in ids_of[text_of[doc_id]]}
        if named:
            qrels[question.query_id] = dict.fromkeys(sorted(named | alike), 1)
    return qrels


def measure(rankings: Rankings, qrels: Qrels, metrics: Mapping[str, str] = METRICS) -> dict[str, dict[str, float]]:
    """Metric -> query -> value, for every query of `qrels`; a query without a ranking scores 0.

    Args:
        rankings: documents of each query, best first.
        qrels: grades of documents; relevant from 1, and nDCG gains as much as the grade.
        metrics: what to measure: our name -> that of ir-measures.

    Source: the definitions of trec_eval, by way of ir-measures (MacAvaney et al. 2022).
    """
    import ir_measures

    if not qrels:
        return {metric: {} for metric in metrics}
    ours = {ir_measures.parse_measure(name): metric for metric, name in metrics.items()}
    values: dict[str, dict[str, float]] = {metric: {} for metric in metrics}
    run = {query_id: _scores(ranking) for query_id, ranking in rankings.items()}
    plain = {query_id: dict(grades) for query_id, grades in qrels.items()}
    for value in ir_measures.iter_calc(list(ours), plain, run):
        values[ours[value.measure]][value.query_id] = float(value.value)
    return {metric: dict(sorted(by_query.items())) for metric, by_query in values.items()}


def trec_run(rankings: Rankings, name: str) -> str:
    """Rankings as a TREC run: `query Q0 document rank score name`, ranks from 1, scores 1/rank."""
    return "".join(
        f"{query_id} Q0 {doc_id} {rank} {1.0 / rank:.6f} {name}\n"
        for query_id, ranking in sorted(rankings.items())
        for rank, doc_id in enumerate(ranking, 1)
    )


def trec_qrels(qrels: Qrels) -> str:
    """Judgements in TREC's form: `query 0 document grade`."""
    return "".join(
        f"{query_id} 0 {doc_id} {grade}\n"
        for query_id, grades in sorted(qrels.items())
        for doc_id, grade in sorted(grades.items())
    )


def _scores(ranking: Sequence[str]) -> dict[str, float]:
    """Falling scores in ranked order: trec_eval sorts by score alone and would break ties by id."""
    return {doc_id: 1.0 / rank for rank, doc_id in enumerate(ranking, 1)}


def _comparable(text: str) -> str:
    return " ".join(text.split())
