"""What is done to a valid input to make it hostile."""

import json
from typing import Any


TEXTS = ["", " ", "sky", "=cmd|' /C calc'!A0", "../../x", "/etc/passwd", "a/b", "CON", "a\x00b", "\x1b[31mred\x1b[0m"]
TEXTS += [
    "\u202egnp.exe",
    "line\nline",
    "|",
    "<script>alert(1)</script>",
    "天空",
    "\ud800",
    "x" * 300,
    "🌲",
    "-1",
    "1e5",
]
NUMBERS = [0, 1, -1, 2, 255, 256, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf")]


def any_value(random: Any, depth: int = 2) -> Any:
    """A value of JSON of any type."""
    kind = random.randrange(7 if depth else 5)
    if kind == 0:
        return None
    if kind == 1:
        return random.choice([True, False])
    if kind in (2, 3):
        return random.choice(NUMBERS)
    if kind == 4:
        return random.choice(TEXTS)
    if kind == 5:
        return [any_value(random, depth - 1) for _ in range(random.randrange(5))]
    return {random.choice(TEXTS): any_value(random, depth - 1) for _ in range(random.randrange(5))}


def with_changes(random: Any, content: Any) -> Any:
    """A copy of nested dictionaries and lists in which one to three things are replaced, dropped or added."""
    content = json.loads(json.dumps(content))
    for _ in range(random.randint(1, 3)):
        place = content
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = random.choice(keys)
            if not isinstance(place[key], (dict, list)) or not place[key] or random.random() < 0.4:
                break
            place = place[key]
        if not isinstance(place, (dict, list)) or not place:
            return any_value(random)
        action = random.randrange(4)
        if action == 0:
            del place[key]
        elif action == 1 and isinstance(place, dict):
            place[random.choice([*TEXTS, "-1", "00", "7"])] = place[key]
        elif action == 2 and isinstance(place, list):
            place.append(any_value(random))
        else:
            place[key] = any_value(random)
    return content


def as_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode()


def with_damage(random: Any, data: bytes) -> bytes:
    """Bytes that were cut, flipped, repeated, encoded otherwise, or never were such a file."""
    kind = random.randrange(8)
    at = random.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        flipped = bytearray(data)
        for _ in range(random.randint(1, 8)):
            flipped[random.randrange(len(data))] = random.randrange(256)
        return bytes(flipped)
    if kind == 2:
        return data[:at] + random.randbytes(random.randint(1, 40)) + data[at:]
    if kind == 3:
        return data[:at] + data
    if kind == 4:
        return random.randbytes(random.randrange(200))
    if kind == 5:
        return b"\xef\xbb\xbf" + data
    if kind == 6:
        return data.decode("latin-1").encode(random.choice(["utf-16", "utf-32"]))
    return data[:at] + data[min(len(data), at + random.randint(1, 30)) :]


def nested(random: Any, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Brackets in brackets, deeper than any reader may follow by calling itself."""
    depth = random.choice([100, 1_000, 10_000, 200_000])
    return opening * depth + (closing * depth if random.random() < 0.5 else b"")
