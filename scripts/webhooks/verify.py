#!/usr/bin/env python3
"""Verifies webhooks with the official Standard Webhooks library for Python:

    pip install standardwebhooks
    scripts/webhooks/verify.py <requests.ndjson

Each line is {"secret", "headers", "body"}, the body as base64; for each a line is printed, "verified" or why not.
"""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    request = json.loads(line)
    try:
        Webhook(request["secret"]).verify(base64.b64decode(request["body"]), request["headers"])
        print("verified")
    except WebhookVerificationError as error:
        print(error)
