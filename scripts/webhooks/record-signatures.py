#!/usr/bin/env python3
"""Records signatures that others than metrobus made, for the tests of src/webhook/signature.rs:

    pip install standardwebhooks cryptography
    scripts/webhooks/record-signatures.py > src/webhook/signatures.json

v1 is by the official Standard Webhooks library for Python. It has no v1a: those are by the Ed25519 of the package cryptography,
over the text that the specification says. Both schemes give the same signature each time, so a test that compares bytes
shows at once that the library accepts what metrobus signs.
"""

import base64
import json
from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from standardwebhooks.webhooks import Webhook

TIME = 1_700_000_000
BODIES = [
    '{"account_number": 1000000, "note": 2.50}',
    "{}",
    "",
    '{"text": "Grüße, 世界 \U0001f600", "dots": "a.b.c"}',
    "x" * 5000,
]


def base64_of(data):
    return base64.b64encode(data).decode()


def symmetric(length, id, body):
    secret = bytes((7 * i + length) % 256 for i in range(length))
    text = "whsec_" + base64_of(secret)
    signature = Webhook(text).sign(id, datetime.fromtimestamp(TIME, tz=timezone.utc), body)
    return {"secret": text, "public": text, "id": id, "timestamp": TIME, "body": body, "signature": signature}


def asymmetric(number, id, body):
    seed = bytes((11 * i + number) % 256 for i in range(32))
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = "v1a," + base64_of(key.sign(f"{id}.{TIME}.{body}".encode()))
    # Both spellings of a secret key are about: the seed, and the seed with the public key behind it
    secret = seed if number % 2 == 0 else seed + public
    return {
        "secret": "whsk_" + base64_of(secret),
        "public": "whpk_" + base64_of(public),
        "id": id,
        "timestamp": TIME,
        "body": body,
        "signature": signature,
    }


lengths = [24, 32, 33, 48, 64]
vectors = [symmetric(lengths[i], f"msg_{i}", body) for i, body in enumerate(BODIES)]
vectors += [asymmetric(i, f"01a1fe5a-0d2c-71ac-8c1f-9a3b6f3f86b{i}", body) for i, body in enumerate(BODIES)]
print(json.dumps(vectors, indent=1, ensure_ascii=False))
