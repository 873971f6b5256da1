"""The difference of two documents, as clients apply it. Pure."""

from netpolq.ui.api.documents import Document


def changes(before: Document, after: Document) -> dict[str, object] | None:
    """What to send to a client that has `before`; None if nothing but the time differs.

    A document with one list has `upserted` and `removed` beside `head`; one with several lists has them below the name of each list.
    """
    sections = {name: _section(before.sections[name], items) for name, items in after.sections.items()}
    is_same_head = {**before.head, "at": None} == {**after.head, "at": None}
    if is_same_head and not any(section["upserted"] or section["removed"] for section in sections.values()):
        return None
    if len(sections) == 1:
        return {"head": after.head, **next(iter(sections.values()))}
    return {"head": after.head, **sections}


def _section(before: list[dict[str, object]], after: list[dict[str, object]]) -> dict[str, list[object]]:
    known = {item["id"]: item for item in before}
    upserted: list[object] = [item for item in after if known.get(item["id"]) != item]
    present = {item["id"] for item in after}
    return {"upserted": upserted, "removed": [identity for identity in known if identity not in present]}
