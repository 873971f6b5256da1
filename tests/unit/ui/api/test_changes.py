"""Changes between documents: a client that applies them has the present document."""

import random

from netpolq.ui.api.changes import changes
from netpolq.ui.api.documents import Document


def document(rng: random.Random, at: int, sections: tuple[str, ...]) -> Document:
    found: dict[str, list[dict[str, object]]] = {
        name: [{"id": number, "value": rng.randrange(2)} for number in rng.sample(range(6), rng.randrange(6))]
        for name in sections
    }
    return Document({"at": at, "total": rng.randrange(2)}, found)


def applied(before: dict[object, dict[str, object]], change: dict[str, object]) -> dict[object, dict[str, object]]:
    after = {key: item for key, item in before.items() if key not in change["removed"]}  # type: ignore[operator]
    return after | {item["id"]: item for item in change["upserted"]}  # type: ignore[attr-defined]


def test_a_client_that_applies_all_changes_has_the_document() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        sections = rng.choice((("flows",), ("nodes", "edges")))
        sent = document(rng, 0, sections)
        held = {name: {item["id"]: item for item in items} for name, items in sent.sections.items()}
        head = sent.head
        for at in range(1, 6):
            present = document(rng, at, sections)
            change, sent = changes(sent, present), present
            if change is not None:
                head = change["head"]  # type: ignore[assignment]
                for name in sections:
                    section = change if len(sections) == 1 else change[name]
                    held[name] = applied(held[name], section)  # type: ignore[arg-type]
            for name, items in present.sections.items():
                assert held[name] == {item["id"]: item for item in items}
            assert head["total"] == present.head["total"]


def test_nothing_is_sent_if_only_the_time_differs() -> None:
    before, after = (Document({"at": at, "total": 1}, {"flows": [{"id": 1}]}) for at in (1, 2))
    assert changes(before, after) is None
