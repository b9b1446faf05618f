"""Rankings and their explanations, for the eye and for JSON."""

from collections.abc import Mapping
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from shared.pb.finestream.v1 import ranking_pb2

RUNGS: Final = {
    ranking_pb2.RUNG_FULL: "full",
    ranking_pb2.RUNG_CACHED: "cached",
    ranking_pb2.RUNG_POPULAR: "popular",
}


def explanation(reason: ranking_pb2.Explanation) -> dict[str, Any]:
    """An explanation as plain values; `kind` is the proto's name of the reason, or "" where there is none."""
    kind = reason.WhichOneof("reason")
    moved = {"moved": round(reason.moved, 4)} if reason.HasField("moved") else {}
    if kind == "opinion":
        return {"kind": kind, **_words(reason.opinion), **moved}
    if kind == "history":
        spoken = {"spoken": {**_words(reason.spoken), "moved": round(reason.spoken_moved, 4)}}
        return {
            "kind": kind,
            "item_id": reason.history.item_id,
            **moved,
            **(spoken if reason.HasField("spoken") else {}),
        }
    if kind == "popular":
        return {"kind": kind, "users": round(reason.popular.users)}
    if kind == "explored":
        return {"kind": kind, "users": round(reason.explored.users)}
    return {"kind": kind or ""}


def _words(said: ranking_pb2.OpinionReason) -> dict[str, str]:
    return {
        "attribute": said.attribute, "opinion": said.opinion, "quote": said.quote, "review_id": said.review_id,
    }  # fmt: skip


def sentence(reason: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """An explanation as one sentence."""
    if reason["kind"] == "opinion":
        return _quote(reason)
    if reason["kind"] == "history":
        also = f"; {_quote(reason['spoken'])}" if "spoken" in reason else ""
        return f"because of {named(reason['item_id'], titles)}{also}"
    if reason["kind"] == "popular":
        return f"met by about {reason['users']} users"
    if reason["kind"] == "explored":
        return f"shown to learn about it: met by about {reason['users']} users"
    if reason["kind"] == "pinned":
        return "put here by a rule"
    return ""


def _quote(said: Mapping[str, Any]) -> str:
    if not said["quote"]:
        return f"{said['attribute']}, which you write of"
    return f"{said['attribute']}: “{said['quote']}” (review {said['review_id']})"


def ranking_of(user_id: str, answer: ranking_pb2.RankResponse) -> dict[str, Any]:
    """A ranking as plain values."""
    return {
        "user": user_id,
        "items": [item.item_id for item in answer.items],
        "scores": [round(item.score, 4) for item in answer.items],
        "explanations": [explanation(item.explanation) for item in answer.items],
        "rung": RUNGS.get(answer.rung, "unknown"),
        "rung_reason": answer.rung_reason,
        "model_version": answer.model_version,
        "watermark": answer.watermark,
        "policy": answer.policy,
        "variant": answer.variant,
        "next_page_token": answer.next_page_token,
        "propensities": [item.propensity if item.HasField("propensity") else 1.0 for item in answer.items],
    }


def table(ranking: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    """A ranking as a table, one row an item."""
    rung = ranking["rung"] + (f" ({ranking['rung_reason']})" if ranking["rung_reason"] else "")
    heading = f"{ranking['user']}: rung {rung}, model {ranking['model_version'] or 'none yet'}"
    drawn = Table(title=escape(heading), title_justify="left")
    for name, justify in (("#", "right"), ("item", "left"), ("score", "right"), ("why", "left")):
        drawn.add_column(name, justify=justify)  # type: ignore[arg-type]  # the four words are right
    rows = zip(ranking["items"], ranking["scores"], ranking["explanations"], strict=True)
    for number, (item_id, score, reason) in enumerate(rows, 1):
        drawn.add_row(str(number), escape(named(item_id, titles)), f"{score:.3f}", escape(sentence(reason, titles)))
    return drawn


def similar_of(item_id: str, answer: ranking_pb2.RankingServiceSimilarItemsResponse) -> dict[str, Any]:
    """What is like an item, as plain values."""
    return {
        "item": item_id,
        "items": [item.item_id for item in answer.items],
        "similarities": [round(item.similarity, 4) for item in answer.items],
        "model_version": answer.model_version,
    }


def similar_table(found: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    """What is like an item as a table, one row an item."""
    heading = f"like {named(found['item'], titles)}, model {found['model_version']}"
    drawn = Table("item", "cosine", title=escape(heading), title_justify="left")
    for item_id, similarity in zip(found["items"], found["similarities"], strict=True):
        drawn.add_row(escape(named(item_id, titles)), f"{similarity:.3f}")
    return drawn


def named(item_id: str, titles: Mapping[str, str]) -> str:
    title = titles.get(item_id, "")
    return f"{title} [{item_id}]" if title else item_id
