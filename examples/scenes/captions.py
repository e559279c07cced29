"""From a scene's content to a caption, in varied words, and back from a caption to the content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .spec import COLOURS, KINDS, SIZES, Content

# The first phrase of each tuple is the plain one.
PLACE_PHRASES = {
    "lake": ("by a lake", "beside a lake", "near a lake", "at the lake"),
    "sea": ("by the sea", "beside the sea", "near the sea", "at the sea"),
    "field": ("in a field", "in the fields", "near a field"),
    "hills": ("in the hills", "among hills", "near the hills"),
    "mountains": ("in the mountains", "among mountains", "near the mountains"),
}
AFLOAT = {"lake": ("on a lake", "on the lake"), "sea": ("on the sea", "at sea")}
OVERHEAD = {
    "lake": ("over a lake", "above a lake"),
    "sea": ("over the sea", "above the sea"),
    "field": ("over a field", "above the fields"),
    "hills": ("over the hills", "above hills"),
    "mountains": ("over the mountains", "above mountains"),
}
WEATHER_PHRASES = {
    "sunny": ("on a sunny day", "in the sun", "in sunny weather"),
    "rain": ("in the rain", "on a rainy day", "in rainy weather"),
    "snow": ("in the snow", "on a snowy day", "in snowy weather"),
    "night": ("at night", "by night", "on a dark night"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
}
SIDE_PHRASES = {"left": "on the left", "right": "on the right"}
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
OPENINGS = ("", "a picture of ", "a drawing of ", "there is ")

_WEATHER_WORDS = {
    "sunny": "sunny", "sun": "sunny", "rain": "rain", "rainy": "rain", "snow": "snow", "snowy": "snow",
    "night": "night", "sunset": "sunset", "dusk": "sunset", "evening": "sunset",
}  # fmt: skip
_PLACE_WORDS = {
    "lake": "lake", "sea": "sea", "field": "field", "fields": "field",
    "hills": "hills", "mountains": "mountains",
}  # fmt: skip
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}


def plain_caption(content: Content) -> str:
    """The shortest caption of a content, e.g. "a red house by a lake with a tree"."""
    return _compose(content, None)


def random_caption(content: Content, generator: np.random.Generator) -> str:
    """A caption of the content, lower case, without punctuation: word choice and order vary."""
    return _compose(content, generator)


def understand(caption: str) -> Content:
    """The content that a caption names. ValueError if it names no object or no place of spec.py."""
    size = colour = side = place = weather = ""
    things: list[tuple[str, str, str]] = []
    for word in caption.lower().replace(",", " ").split():
        if word in COLOURS:
            colour = word
        elif word in _SIZES:
            size = _SIZES[word]
        elif word in KINDS:
            things.append((word, colour, size))
            size = colour = ""
        side = word if word in SIDE_PHRASES else side
        place = _PLACE_WORDS.get(word, place)
        weather = _WEATHER_WORDS.get(word, weather)
    if not things or not place:
        raise ValueError(f"caption {caption!r} must name an object ({', '.join(KINDS)}) and a place")
    (kind, colour, size), second = things[0], things[1] if len(things) > 1 else ("", "", "")
    content = Content(kind, colour, size, side, place, weather or "sunny", second[0], second[1])
    if kind == "tree" and not colour:
        content = replace(content, colour="green")
    if second[0] == "tree" and not second[1]:
        content = replace(content, second_colour="green")
    return content


def _compose(content: Content, generator: np.random.Generator | None) -> str:
    def chance(share: float) -> bool:
        return generator is not None and bool(generator.random() < share)

    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[0] if generator is None else str(generator.choice(phrases))

    def thing(kind: str, colour: str, size: str) -> str:
        words = [pick(SIZE_WORDS[size])] if size else []
        if not (kind == "tree" and colour == "green") or chance(0.5):
            words.append(colour)
        words.append(kind)
        return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"

    assert content.size in SIZES
    phrases = {"boat": AFLOAT, "balloon": OVERHEAD}.get(content.kind, PLACE_PHRASES)
    place = pick(phrases[content.place])
    first = thing(content.kind, content.colour, content.size)
    if content.side:
        first = f"{first} {SIDE_PHRASES[content.side]}"
    parts = [first, place]
    if content.second:
        second = thing(content.second, content.second_colour, "")
        if chance(0.5):
            parts[0] = f"{first} and {second}"
        else:
            parts.append(f"with {second}")
    text = " ".join(parts)
    if content.weather == "sunny" and not chance(0.4):
        return pick(OPENINGS) + text if chance(0.3) else text
    weather = pick(WEATHER_PHRASES[content.weather])
    if chance(0.25):
        return f"{weather} {text}"
    opening = pick(OPENINGS) if chance(0.3) else ""
    return f"{opening}{text} {weather}"
