"""The answers to a question: the explanation of each of its flows, as one text or one JSON object."""

import re

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import orjson

from netpolq.addresses import format_address
from netpolq.enums import Verdict
from netpolq.explain.endpoints import Endpoint, Owners
from netpolq.explain.flows import Flows
from netpolq.explain.known import Known
from netpolq.explain.render import as_fields_of_answer, as_text, text_line, verdict_word
from netpolq.policy.evaluator import Evaluator, Explanation
from netpolq.policy.name_reasons import NameReasonFinder, NameReasons
from netpolq.policy.near_miss import NearMisses, NearMissFinder


class Answer(NamedTuple):
    """The explanation of a flow, with all that is told about it. `audit`: the explanation if the policies in audit were enforced, None if
    its verdict is the same.
    """

    explanation: Explanation
    misses: NearMisses
    reasons: NameReasons
    source: Endpoint
    destination: Endpoint
    protocol: int
    port: int
    audit: Explanation | None = None


def explain_all(
    known: Known, evaluator: Evaluator, with_audit: Evaluator | None, flows: Flows, *, via_service: bool
) -> tuple[Answer, ...]:
    """Explain each flow. `with_audit`: the evaluator for which policies in audit are enforced, None if there are none. `via_service`: see
    `Evaluator`.
    """
    store = known.store
    miss_finder, name_finder, owners = NearMissFinder(store), NameReasonFinder(store), Owners(known)
    answers = []
    for flow in flows.flows:
        is_via_service = via_service or flows.via_service
        explanation = evaluator.explain(*flow, via_service=is_via_service)
        audit = None if with_audit is None else with_audit.explain(*flow, via_service=is_via_service)
        if audit is not None and audit.verdict is explanation.verdict:
            audit = None
        ends = owners.describe(flow.source), owners.describe(flow.destination)
        misses = _without_synthetic(miss_finder.find(explanation, *flow), ends)
        reasons = name_finder.find(explanation.egress, *flow)
        answers.append(Answer(explanation, misses, reasons, *ends, flow.protocol, flow.port, audit))
    return tuple(answers)


def _without_synthetic(misses: NearMisses, ends: Sequence[Endpoint]) -> NearMisses:
    """Replace addresses that stand for a pod template in the texts."""
    for end in ends:
        if end.workload is not None:
            address = re.compile(rf"(?<![\w.:]){re.escape(format_address(end.address))}(?![\w.:/])")
            shown = end.shown_address
            misses = NearMisses(
                egress=tuple(replace(miss, why=address.sub(shown, miss.why)) for miss in misses.egress),
                ingress=tuple(replace(miss, why=address.sub(shown, miss.why)) for miss in misses.ingress),
            )
    return misses


def all_as_text(answers: Sequence[Answer], flows: Flows, known: Known) -> str:
    """Return the text of each answer; before it what stands for the destinations, behind it notes and where the objects come from."""
    blocks = [as_text(*answer) for answer in answers]
    if flows.via:
        summary = _word(answers) if len(answers) == 1 else f"{_word(answers)}: {_counts(answers)}"
        blocks.insert(0, text_line("asked for", flows.via) + text_line("verdict", summary))
    ends = [("note", note) for note in flows.notes]
    if known.origin.line:
        ends.append(("policies", known.origin.line))
    return "\n".join(blocks) + "".join(text_line(name, text) for name, text in ends)


def all_as_json(answers: Sequence[Answer], flows: Flows, known: Known) -> str:
    """Return one JSON object on one line: the fields of the answer, or, where something stands for destinations, `answers` with those of
    each. The field `notes` is there if there are any; `rejected` has what cannot be used as written, if there is any, with the fields of
    the status document.
    """
    of_answers = [as_fields_of_answer(*answer) for answer in answers]
    fields = {"verdict": _word(answers), **flows.fields, "answers": of_answers} if flows.via else of_answers[0]
    notes = {"notes": flows.notes} if flows.notes else {}
    rejected = {"rejected": known.rejections} if known.rejections else {}
    return orjson.dumps({**fields, **notes, **known.origin.fields, **rejected}, option=orjson.OPT_APPEND_NEWLINE).decode()


def _word(answers: Sequence[Answer]) -> str:
    words = {verdict_word(answer.explanation) for answer in answers}
    return words.pop() if len(words) == 1 else "mixed"


def _counts(answers: Sequence[Answer]) -> str:
    accepted = sum(answer.explanation.verdict is Verdict.ACCEPT for answer in answers)
    return f"{accepted} of {len(answers)} connections are allowed"
