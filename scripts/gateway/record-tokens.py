#!/usr/bin/env python3
"""Records tokens that another library than metrobus' made, for the tests of src/gateway: JSON Web Tokens by PyJWT.

    pip install pyjwt cryptography
    scripts/gateway/record-tokens.py > src/gateway/tokens.json

The private keys are made for the occasion and thrown away; the tokens hold until 2100.
"""

import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = "a secret of the tests, thirty-two bytes or more"
CLAIMS = {"iss": "https://login.example", "aud": "metrobus", "sub": "orders", "exp": 4102444800}


def public(key, format=PublicFormat.SubjectPublicKeyInfo):
    return key.public_key().public_bytes(Encoding.PEM, format).decode()


def token(key, algorithm):
    return jwt.encode(CLAIMS, key, algorithm=algorithm)


rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
small_key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ec_key = ec.generate_private_key(ec.SECP256R1())
other_ec_key = ec.generate_private_key(ec.SECP384R1())
ed_key = ed25519.Ed25519PrivateKey.generate()

recorded = {
    "good": {
        "HS256": {"key": SECRET, "token": token(SECRET, "HS256")},
        "RS256": {"key": public(rsa_key), "token": token(rsa_key, "RS256")},
        "ES256": {"key": public(ec_key), "token": token(ec_key, "ES256")},
        "EdDSA": {"key": public(ed_key), "token": token(ed_key, "EdDSA")},
    },
    # By the keys above, with another algorithm than the one that goes with them
    "others": {
        "HS384": token(SECRET, "HS384"),
        "HS512": token(SECRET, "HS512"),
        "RS384": token(rsa_key, "RS384"),
        "PS256": token(rsa_key, "PS256"),
        "none": token(None, "none"),
    },
    "keys": {
        "pkcs1": public(rsa_key, PublicFormat.PKCS1),
        "rsa_1024": public(small_key),
        "p384": public(other_ec_key),
    },
}
print(json.dumps(recorded, indent=1))
