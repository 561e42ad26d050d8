"""Which facts of a conversation's memory have to do with a text. Pure functions; reading facts is done elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

STOP_WORDS = frozenset(
    """
    a about after again all also am an and any are as at be because been before being but by can cannot could did do
    does doing done down each either else ever every few for from get gets getting give given go goes going gone got
    had has have having he her here hers him his how however i if in instead into is it its itself just know let like
    lot make many may maybe me might mine more most much must my need no nor not now of off oh ok okay on once one
    only or other our ours out over own please quite rather really right said same say says see shall she should
    since so some something still such sure take tell than thank thanks that the their them then there these they
    thing things think this those though through to too under until up upon us user very want wanted wants was way we
    well were what when where whether which while who whom whose why will with within without would yeah yes yet you
    your yours
    """.split()  # noqa: SIM905
)
"""English words that say nothing about what a text is about."""


def words(text: str) -> frozenset[str]:
    """The words of a text that count: without case, stop words, possessives and the plural's ``s``."""
    found = set()
    for word in _WORD.findall(text.casefold()):
        stem = re.split("['’]", word)[0]
        if stem in STOP_WORDS or word in STOP_WORDS:
            continue
        if len(stem) > 3 and stem.endswith("s") and not stem.endswith("ss"):
            stem = stem[:-1]
        if len(stem) > 1 or stem.isdigit() or not stem.isascii():
            found.add(stem)
    return frozenset(found)


def relevant(facts: Sequence[str], text: str, limit: int = 3) -> list[str]:
    """The facts that share words with the text, the best first.

    More shared words are better; of two with as many, the one that speaks of little else, then the newer one.

    Args:
        facts: oldest first; one that is there twice counts once.
        text: what they are to have to do with.
        limit: how many at most.
    """
    wanted = words(text)
    ranked = []
    for age, fact in enumerate(dict.fromkeys(reversed(facts))):
        own = words(fact)
        shared = len(own & wanted)
        if shared:
            ranked.append((-shared, len(own), age, fact))
    return [fact for *_, fact in sorted(ranked)[:limit]]
