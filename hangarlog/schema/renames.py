"""Guesses which field, or which event type, has which new name. A person must confirm each of them.

Two names are alike if they share words, or a word and its short form: `created` and `created_at`, `userId` and
`user_id`, `msg` and `message`. A name gets at most one new name, and only if no other is as likely.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import SequenceMatcher
from functools import lru_cache

from hangarlog.schema.describe import Schema

LIKELY = 0.5  # The likeness from which a guess is made.
_MIN_REPEATED = 3  # Types that show the same pair of names before the pair counts without likeness.
_MAX_COMPARED = 200  # Vanished or new types that are compared with each other.
_GENERIC = frozenset(
    {"a", "at", "by", "count", "date", "has", "id", "ids", "is", "key", "kind", "name", "no", "number", "of", "on"}
    | {"the", "time", "ts", "type", "url", "value"}
)
_GENERIC_WEIGHT = 0.3
"""The weight of a word that says little: `user_id` and `order_id` are not alike because of `id`."""

_BOTH_DIFFER = 0.9
"""The factor if each name has a word of its own: `old_state` and `new_state` are two things."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


@lru_cache(maxsize=10_000)
def words(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case: `("user", "id")` for `userId` and `user_id`."""
    return tuple(word.lower() for word in _WORD.findall(name[:200]))[:20]


def likeness(one: str, other: str) -> float:
    """Return how alike two names are, from 0 to 1."""
    if words(one) == words(other) and words(one):
        return 1.0
    mine, theirs = list(words(one)), list(words(other))
    total = sum(map(_weight, (*mine, *theirs)))
    common = 0.0
    pairs = sorted(((_word_likeness(a, b), a, b) for a in mine for b in theirs), reverse=True)
    for alike, a, b in pairs:
        if alike and a in mine and b in theirs:
            mine.remove(a)
            theirs.remove(b)
            common += alike * (_weight(a) + _weight(b))
    if any(map(_says_much, mine)) and any(map(_says_much, theirs)):
        common *= _BOTH_DIFFER
    return common / total if total else 0.0


def _says_much(word: str) -> bool:
    return word not in _GENERIC


def _weight(word: str) -> float:
    return 1.0 if _says_much(word) else _GENERIC_WEIGHT


@lru_cache(maxsize=10_000)
def _word_likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    short, long = sorted((one, other), key=len)
    if len(short) >= 3 and long.startswith(short):
        return 0.9  # `count` and `counts`, `desc` and `description`.
    if len(short) >= 3 and short[0] == long[0] and short[-1] == long[-1] and _is_spread(short, long):
        return 0.8  # `qty` and `quantity`.
    if len(short) >= 3 and short[0] == long[0] and not set(short) & set("aeiou") and _is_spread(short, long):
        return 0.8  # `msg` and `message`.
    close = SequenceMatcher(None, one, other).ratio()
    return close if close >= 0.8 and len(short) >= 4 else 0.0  # `recieved` and `received`.


def _is_spread(short: str, long: str) -> bool:
    """True if the letters of a word occur in another one, in this order."""
    rest = iter(long)
    return all(letter in rest for letter in short)


def guess_renames(
    removed: Collection[str],
    added: Collection[str],
    may_hold: Callable[[str, str], bool],
    repeated: Collection[tuple[str, str]] = (),
) -> dict[str, str]:
    """Return {old name: new name} of fields that were probably renamed.

    `may_hold` says if values of an old field can be those of a new one. The pairs in `repeated` count as alike, and so
    does a single field that is gone if it shares a word with a single new one.
    """
    scores: dict[tuple[str, str], float] = {}
    for one in removed:
        for other in added:
            score = likeness(one, other)
            if (one, other) in repeated or (len(removed) == len(added) == 1 and {*words(one)} & {*words(other)}):
                score = max(score, LIKELY)
            if score >= LIKELY and may_hold(one, other):
                scores[one, other] = score
    return _assigned(scores)


def _assigned(scores: Mapping[tuple[str, str], float]) -> dict[str, str]:
    """Return the best pairs, each name in one pair at most. Names with two equally good partners get none."""
    found: dict[str, str] = {}
    left = dict(scores)
    while left:
        best = max(left.values())
        top = [pair for pair, score in left.items() if score == best]
        olds, news = Counter(one for one, _ in top), Counter(other for _, other in top)
        found.update((one, other) for one, other in top if olds[one] == news[other] == 1)
        left = {pair: score for pair, score in left.items() if pair[0] not in olds and pair[1] not in news}
    return found


def repeated_renames(changed: Iterable[tuple[Schema, Schema]]) -> set[tuple[str, str]]:
    """Return the pairs (old name, new name) of equal type that several types have lost and gained.

    `changed` has the shapes of each type before and after.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for old, new in changed:
        before, after = old.get("properties", {}), new.get("properties", {})
        removed = [name for name in before if name not in after and "const" not in before[name]]
        added = [name for name in after if name not in before and "const" not in after[name]]
        if len(removed) * len(added) <= 100:
            counts.update((one, other) for one in removed for other in added if before[one] == after[other])
    often = {pair: count for pair, count in counts.items() if count >= _MIN_REPEATED}
    # Where a name has two partners that occur equally often, nothing tells which is right.
    return set(_assigned(often).items())


def guess_successors(vanished: Mapping[str, Schema], new: Mapping[str, Schema]) -> dict[str, str]:
    """Return {vanished type: new type} of event types that were probably renamed.

    Either the names are alike and half of the fields are the same, or nearly all of several fields are.
    """
    scores: dict[tuple[str, str], float] = {}
    for one, old in list(vanished.items())[:_MAX_COMPARED]:
        for other, shape in list(new.items())[:_MAX_COMPARED]:
            names, (fields, common) = likeness(one, other), _fields_in_common(old, shape)
            if (
                (names >= LIKELY and fields >= 0.5)
                or (names >= 0.25 and fields >= 0.5 and common >= 2)
                or (fields >= 0.8 and common >= 2)
            ):
                scores[one, other] = names + fields
    return _assigned(scores)


def _fields_in_common(old: Schema, new: Schema) -> tuple[float, int]:
    """Return (share, number) of the fields that two types have in common, also under similar names."""
    before, after = ({*shape.get("properties", {})} for shape in (old, new))
    common = len(before & after)
    common += len(guess_renames(sorted(before - after)[:20], sorted(after - before)[:20], lambda one, other: True))
    return (2 * common / (len(before) + len(after)) if before or after else 1.0), common
