#!/usr/bin/env python3
"""Prints filters made at random, each with a message and what Python gives for it, as JSON.

scripts/filters/random_filters.py COUNT SEED. The first half is of the grammar that metrobus understands, the other half
has tokens put in, left out or exchanged, so that most of it is no expression at all.
"""

import json
import random
import sys

from python import gives, written

KEYS = ["a", "b", "c", "d", "e", "n"]
SCALARS = [
    "0", "1", "-1", "2", "3", "1.0", "-0.0", "0.5", "1e2", "1E400", "-1e400", "9007199254740993", "9007199254740992.0",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9.223372036854775808e18",
    "123456789012345678901234567890", "1.2345678901234568e29", "true", "false", "null", '""', '"a"', '"ab"', '"b"', '"1"',
    '"\\u00e9"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\uffff"', '"a\\u0000"',
]
TEXTS = ["''", '""', "'a'", '"b"', "'ab'", "'c'", "'d'", "'e'", "'n'", "'1'", "'é'", r"'\xe9'", r"'\ud83d'", "'😀'", r"'a\0'", "'a' 'b'", r"'\d'"]
NUMBERS = ["0", "1", "2", "3", "1.0", ".5", "0x10", "1_0", "1e2", "1e400", "9007199254740993", "9007199254740992.", "9223372036854775808",
           "123456789012345678901234567890", "00", "0b1"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
TOKENS = ["and", "or", "not", "in", "is", "None", "True", "data", "(", ")", "[", "]", ",", ".get(", "-", "==", "<", "1", "'a'", ".", "+",
          "\n", " ", "#", "\\", "'", ":", "=", "1.", "0x", "_", "if", "\t", "get", "{", "}", "*", "é", "r'a'", "\r", "''", "<>", "()", "0b2", "0o_8"]


def message(chance, depth=0):
    kind = chance.random()
    if depth == 0 or (depth < 4 and kind < 0.3):
        fields = [f'"{chance.choice(KEYS)}":{message(chance, depth + 1)}' for _ in range(chance.randrange(5))]
        return "{" + ",".join(fields) + "}"
    if depth < 4 and kind < 0.5:
        return "[" + ", ".join(message(chance, depth + 1) for _ in range(chance.randrange(4))) + "]"
    return chance.choice(SCALARS)


def expression(chance, depth):
    if depth == 0:
        return atom(chance)
    deeper = lambda: expression(chance, depth - 1)
    kind = chance.randrange(13)
    if kind < 2:
        return f" {chance.choice(['and', 'or'])} ".join(deeper() for _ in range(chance.randint(2, 3)))
    if kind == 2:
        return f"not {deeper()}"
    if kind < 6:
        return deeper() + "".join(f" {chance.choice(COMPARISONS)} {operand(chance, depth - 1)}" for _ in range(chance.randint(1, 2)))
    if kind == 6:
        return f"{operand(chance, depth - 1)} {chance.choice(['is', 'is not'])} {chance.choice(['None', 'True', 'False'])}"
    if kind == 7:
        return f"-{operand(chance, depth - 1)}"
    if kind == 8:
        return "[" + ", ".join(deeper() for _ in range(chance.randrange(4))) + "]"
    if kind == 9:
        items = [deeper() for _ in range(chance.randrange(3))]
        return "(" + "".join(f"{item}, " for item in items) + ")"
    return operand(chance, depth)


def operand(chance, depth):
    if depth == 0 or chance.random() < 0.5:
        return atom(chance)
    return f"({expression(chance, depth - 1)})"


def atom(chance):
    kind = chance.randrange(10)
    if kind < 1:
        return chance.choice(["None", "True", "False"])
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice(TEXTS)
    path = "data" if kind < 9 else chance.choice(["'ab'", "[1, data]", "(data.get('a'), 2)"])
    for _ in range(chance.randrange(4)):
        key = chance.choice([f"'{chance.choice(KEYS)}'"] * 3 + ["0", "1", "-1", "True", "None", "data", "0.0", "data['n']"])
        path += chance.choice([f"[{key}]", f"[{key}]", f".get({key})", f".get({key}, {chance.choice(NUMBERS + TEXTS + ['{}', 'data', '[]'])})"])
    return path


def spoilt(chance, text):
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text) + 1)
        put = chance.choice([lambda: "", lambda: chance.choice(TOKENS), lambda: f" {chance.choice(TOKENS)} "])()
        text = text[:at] + put + text[at + chance.choice([0, 0, 1, 3]):]
    return text


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    chance, rows = random.Random(seed), []
    for number in range(count):
        payload, text = message(chance), expression(chance, chance.randint(1, 4))
        whole = number < count // 2
        if not whole:
            text = spoilt(chance, text)
        rows.append({"filter": text, "data": payload, "gives": gives(text, payload), "whole": whole})
    print(written(rows))


if __name__ == "__main__":
    main()
