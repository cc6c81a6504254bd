#!/usr/bin/env python3
"""Records what switch's consumer does with the jobs below into tests/system/switch/consumer.json:

    pip install requests
    scripts/switch/record.py

A job is what switch's server queues for a subscriber: its URL, its filter, and the payload as the publisher sent it, base64. What
the consumer (https://github.com/Kareem-Emad/switch, consumer/utils.py) does with one is written down in `job`, in a few lines of
our own that make the same calls of the same libraries: so the requests are those of Python's requests, on a real socket. The tests hold
metrobus against the file and need no Python.

Where metrobus is to do something else, the case says what (`instead`) and why (`because`): it is never silently other.
"""

import base64
import http.server
import json
import logging
import os
import pathlib
import threading
import warnings

for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ["NO_PROXY"] = "*"

import requests  # noqa: E402

warnings.simplefilter("ignore")

# How often a job that fails is tried again here.
RETRIES = 1


class Sink(http.server.BaseHTTPRequestHandler):
    """Keeps what arrives and answers what the case says, 200 once that is used up."""

    protocol_version = "HTTP/1.1"
    seen, answers = [], []

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        # What requests adds by itself means nothing to whoever is called
        own = {name.lower(): value for name, value in requests.utils.default_headers().items()}
        own |= {"host": "127.0.0.1:%d" % self.server.server_address[1], "content-length": str(len(body))}
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers = {name: value for name, value in headers.items() if own.get(name) != value}
        Sink.seen.append({"method": self.command, "target": self.path, "headers": headers, "body": body.decode()})
        status = Sink.answers.pop(0) if Sink.answers else 200
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)


def parsed(payload):
    """The data of a job; None where switch's consumer finds none in it."""
    try:
        return json.loads(base64.b64decode(payload).decode("utf-8"))
    except Exception:
        return None


def wanted(filter, data):
    """Whether the filter lets the data through. It sees what is in reach where the consumer evaluates it."""
    around = {"json": json, "base64": base64, "logging": logging, "requests": requests, "tag": "[Switch_Consumer]"}
    try:
        return bool(eval(filter or "True", around, {"data": data, "filter_exp": filter}))
    except Exception:
        return False


def job(url, filter, payload):
    """Carries a job out: "skipped", "sent", or the name of the exception by which it fails."""
    data = parsed(payload)
    if not data or not wanted(filter, data):
        return "skipped"
    try:
        for name in data.get("path_params") or {}:
            url = url.replace(f":{name}", data["path_params"][name])
        answer = requests.request(
            method=data.get("http_method") or "POST",
            url=url,
            params=data.get("query_params") or {},
            headers=data.get("headers") or {},
            data=json.dumps(data.get("body") or {}),
            timeout=10,
        )
        answer.raise_for_status()
        return "sent"
    except Exception as error:
        return type(error).__name__


def recorded(base, case):
    """What comes of a case: the outcome of its job, which is tried again where it fails, and all requests."""
    Sink.seen, Sink.answers = [], list(case.get("answers", []))
    outcomes = []
    # Of several jobs of one queue none waits for another
    while len(outcomes) <= RETRIES and (not outcomes or outcomes[-1] not in ("skipped", "sent")):
        outcomes.append(job(base + case["url"], case["filter"], case["payload"]))
    return {"outcomes": outcomes, "requests": Sink.seen}


def instead(case, requests):
    """The requests that metrobus makes of a case in which it differs from the recorded `requests`."""
    changes = case["instead"]
    if changes == "nothing":
        return []
    message = parsed(case["payload"] + "=" * (-len(case["payload"]) % 4))
    request = requests[0] if requests else {
        "method": (message.get("http_method") or "POST").upper(), "target": case["url"], "headers": {},
        "body": json.dumps(message.get("body") or {}),
    }
    request = request | {name: changes[name] for name in ("headers", "target") if name in changes}
    return [request] * changes.get("times", 1)


def encoded(message):
    text = message if isinstance(message, str) else json.dumps(message)
    return base64.b64encode(text.encode()).decode()


CASES = []


def case(name, message=None, url="/hook", filter=None, payload=None, topic=None, instead=None, because=None, answers=None):
    """Adds a case. Without a filter its message tells whose it is, on a topic of many; a text or a payload has a topic of its own.

    `instead` is what metrobus does: "nothing", or what is other in its requests, and how many times there is one.
    """
    number = len(CASES)
    if isinstance(message, dict) and filter is None:
        message, filter, topic = message | {"case": number}, f"data['case'] == {number}", "requests"
    if isinstance(instead, dict) and "target" in instead:
        instead = instead | {"target": f"/{number}{instead['target']}"}
    entry = {
        "name": name,
        "topic": topic or f"case-{number}",
        "url": f"/{number}{url}",
        "filter": filter or "",
        "payload": encoded(message) if payload is None else payload,
    }
    for key, value in (("instead", instead), ("because", because), ("answers", answers)):
        if value is not None:
            entry[key] = value
    CASES.append(entry)


MESSAGES = {
    "order": {
        "body": {
            "test_true": True, "test_false": False, "amount": 120, "price": 2.5, "name": "Ada", "tags": ["new", "vip"],
            "lines": [{"sku": "a1", "n": 2}, {"sku": "b2", "n": 0}], "none": None, "empty": "", "zero": 0, "obj": {}, "list": [],
        },
        "headers": {"test_number": "1", "test_string": "yy", "alpha": "beta"},
        "query_params": {"mi": "piacito", "n": 3},
        "path_params": {"id": "7"},
        "http_method": "POST",
    },
    "bare": {"body": {"kind": "bare", "é": "ü"}},
}

# The table of filters, each over both messages.
FILTERS = [
    "",
    "True",
    "False",
    "None",
    "data",
    "not data",
    "data['body']['test_true'] and data['headers']['test_number'] == '1'",
    "data['body']['test_false'] and data['headers']['test_string'] == 'yyyy'",
    "data['headers']['alpha'] == 'beta' and data['query_params']['mi'] == 'piacito'",
    "data['headers']['alpha'] == 'beta' and data['query_params']['mi'] == 'piacito' and unkown",
    "data['body']['blabla'] == 'anything' or data['headers']['kaza'] == 'kaz_tani'",
    "data['http_method'] == 'POST'",
    "data.get('http_method', 'POST') == 'POST'",
    "data['path_params']['id'] == 7",
    "data['path_params']['id'] == '7'",
    "data['path_params']['id'] in ('7', '8')",
    "data['headers']['test_number'] == 1",
    "data['body']['amount'] > 100",
    "data['body']['amount'] > '100'",
    "data['body']['amount'] >= 120.0",
    "100 < data['body']['amount'] <= 120",
    "100 < data['body']['amount'] < 120",
    "data['body']['price'] == 2.50",
    "data['body']['name'] == \"Ada\"",
    "data['body']['name'] < 'B'",
    "data['body']['name'][0] == 'A'",
    "data['body']['name'][-1] == 'a'",
    "data['body']['name'][7] == 'a'",
    "'new' in data['body']['tags']",
    "'old' not in data['body']['tags']",
    "'new' in data['body']['tags'] and 'vip' in data['body']['tags']",
    "'d' in data['body']['name']",
    "'tags' in data['body']",
    "'missing' in data['body']",
    "'missing' not in data['body'] or data['body']['missing'] == 1",
    "data['body']['lines'][0]['sku'] == 'a1'",
    "data['body']['lines'][1]['n']",
    "data['body']['lines'][-2]['n'] == 2",
    "data['body']['lines'][2]['n'] == 0",
    "data['body']['lines']['sku'] == 'a1'",
    "data['body'].get('missing')",
    "data['body'].get('missing', True)",
    "data['body'].get('amount', 0) > 100",
    "data['body'].get('missing', 0) > 100",
    "data['body'].get('obj').get('a', 'b') == 'b'",
    "data['body']['none'] is None",
    "data['body']['none'] is not None",
    "data['body']['none'] == None",
    "data['body']['none'] > 1",
    "data['body']['empty']",
    "not data['body']['empty']",
    "data['body']['zero']",
    "data['body']['zero'] == False",
    "data['body']['obj']",
    "data['body']['list'] == []",
    "not data['body']['list'] and not data['body']['obj']",
    "data['body']['test_true'] or data['body']['missing']",
    "data['body']['missing'] or data['body']['test_true']",
    "not data['body']['missing']",
    "data['body']['test_false'] or data['body']['amount'] > 100 and data['body']['name'] == 'Bob'",
    "(data['body']['test_true'] or data['body']['test_false']) and not (data['body']['zero'] or data['body']['empty'])",
    "data['body']['test_true'] == 1 == 1.0",
    "1 < 2 < 3 > 2",
    "data['body']['é'] == 'ü'",
    "data['body'].get('kind') == 'bare'",
    "data['body']['kind'] in ['bare', 'full']",
    "data['headers']",
    "data.get('headers')",
    "not data.get('headers')",
    "data.get('headers', {}).get('alpha') == 'beta'",
    "data['query_params']['n'] == 3",
    "-data['query_params']['n'] < -2.5",
    "data['query_params']['n'] == 0x3",
    "'pia' 'cito' == data['query_params']['mi']",
    "data['body'] == {}",
    "data['body']['tags'] == ['new', 'vip']",
    "data['body']['tags'] == ('new', 'vip')",
    "data['body']['tags'] < ['new', 'wip']",
    "data['body']['amount'] == 120 # as ordered",
    " data['body']['amount'] == 120 ",
    "data['body']['amount'] = 120",
    "data['body']['amount'",
    "amount > 100",
    "if data: True",
]
# What Python would run and metrobus refuses to guess: such a subscriber is told of in the log and gets nothing.
NOT_UNDERSTOOD = [
    "len(data['body']['tags']) == 2",
    "data['body']['name'].startswith('A')",
    "data['body']['amount'] + 1 == 121",
    "[tag for tag in data['body']['tags']]",
    "data['body']['name'] if data['body']['test_true'] else False",
    "tag",
    "str(data['body']['amount']) == '120'",
    "f\"{data['body']['name']}\" == 'Ada'",
    "lambda: False",
    "data['body']['tags'][0:1] == ['new']",
    "data['body'].keys()",
    "data['body']['obj'] == {'a': 1} or True",
    "__import__('os').getpid() > 0",
]

for topic, message in MESSAGES.items():
    for filter in FILTERS:
        case(f"{topic}: {filter or 'no filter'}", message, filter=filter, topic=topic)
for filter in NOT_UNDERSTOOD:
    case(
        f"order: {filter}", MESSAGES["order"], filter=filter, topic="order",
        instead="nothing", because="what is not understood is refused with the place, never guessed",
    )

ESCAPED = "values are escaped and stay in their segment of the path"
WHOLE = "names are whole ones"
PATH = "there are no placeholders outside of the path"
NUMBERS = "numbers are taken as text"
CONNECTION = "headers of the connection and Host are not a message's to say"
REDIRECT = "a redirect is a failure: it leads past the addresses that were judged"

# The request
case("all of it", {
    "body": {"a": 1, "b": [True, None, "x"]}, "headers": {"X-Kind": "a", "content-type": "application/json"},
    "query_params": {"page": "2"}, "path_params": {"id": "7"}, "http_method": "PUT",
}, url="/books/:id")
case("switch's own test", url="/", filter="data['headers']['alpha'] == 'beta' and data['query_params']['mi'] == 'piacito'", message={
    "body": {"message": "The force is strong with this one..."}, "headers": {"alpha": "beta", "Content-Type": "application/json"},
    "query_params": {"mi": "piacito"}, "path_params": {"domain": "pipedream"},
})
for method in ("get", "GET", "post", "put", "PATCH", "delete", "Options", "head", "PURGE"):
    case(f"method {method}", {"body": {"a": 1}, "http_method": method})
for falsy in (None, "", 0, False, [], {}):
    case(f"http_method {falsy!r}", {"body": {"a": 1}, "http_method": falsy})
for wrong in (7, True, ["GET"], {"a": 1}, "GE T", "G\r\nX: y"):
    case(f"http_method {wrong!r}", {"body": {"a": 1}, "http_method": wrong})
for body in (None, "", 0, 0.0, -0.0, False, [], {}, "text", "0", 7, -2.5, True, [0], [[]], [None], {"a": None}, {"a": {"b": [1, 2.5, "ü", "\u2028", "😀"]}},
             12345678901234567890, "a\"b\\c\n", {"": ""}):
    case(f"body {body!r}", {"body": body, "headers": {"X-A": "1"}})
case("no body", {"headers": {"X-A": "1"}})
case("unknown fields", {"body": {"a": 1}, "something": {"else": True}})

# Headers
case("headers", {"headers": {"X-A": "1", "x-b": "two words", "AUTHORIZATION": "Basic abc", "Cookie": "a=b; c=d", "Accept": "text/plain"}})
case("headers null", {"body": {"a": 1}, "headers": None})
case("headers that are no object", {"body": {"a": 1}, "headers": "x"})
case("headers as a list", {"body": {"a": 1}, "headers": ["x"]})
case("an empty header", {"headers": {"X-A": ""}})
case("a header of null", {"headers": {"X-A": None, "X-B": "b"}})
case("a header twice", {"headers": {"X-A": "1", "x-a": "2"}})
case("a header of a number", {"headers": {"X-A": 7, "X-B": 2.5}}, instead={"headers": {"x-a": "7", "x-b": "2.5"}}, because=NUMBERS)
case("a header of true", {"headers": {"X-A": True}})
case("a header of a list", {"headers": {"X-A": ["1"]}})
case("a header with a line feed", {"headers": {"X-A": "1\r\nX-B: 2"}})
case("a header name with a line feed", {"headers": {"X-A: 1\r\nX-B": "2"}})
case("a header name with a space", {"headers": {"X A": "2"}},
     instead="nothing", because="such a name is no header's (RFC 9110, 5.1)")
case("an empty header name", {"headers": {"": "2"}})
case("user agent of the message", {"headers": {"User-Agent": "mine/1"}})
case("content type of the message", {"headers": {"Content-Type": "text/plain; charset=utf-8"}, "body": "text"})
case("content length of the message", {"headers": {"Content-Length": "1"}, "body": {"a": 1}})
case("host of the message", {"headers": {"Host": "elsewhere.example", "X-A": "1"}}, instead={"headers": {"x-a": "1"}}, because=CONNECTION)
case("headers of the connection", {"headers": {"Connection": "X-A, close", "X-A": "1", "X-B": "2", "TE": "trailers", "Upgrade": "h2c", "Keep-Alive": "5"}},
     instead={"headers": {"x-b": "2"}}, because=CONNECTION)
case("a header that is not ASCII", {"headers": {"X-A": "ü"}}, instead={"headers": {"x-a": "ü".encode().decode("latin-1")}},
     because="text goes as UTF-8 (a character of a header in this file is a byte)")
case("signature of the message", {"headers": {"webhook-id": "mine", "webhook-signature": "v1,mine", "X-A": "1"}},
     instead={"headers": {"x-a": "1"}}, because="a signature is metrobus' own word")

# Query
case("query", {"query_params": {"a": "1", "b": "x y", "c": "&=?#/+%", "d": "ü", "e": ""}})
case("query behind a query", {"query_params": {"a": "1"}}, url="/hook?v=1&w=")
case("query of numbers", {"query_params": {"a": 1, "b": 2.5, "c": -3, "d": 12345678901234567890}})
case("query of true, false, null", {"query_params": {"a": True, "b": False, "c": None}})
case("query of lists", {"query_params": {"a": [1, "2", None, True], "b": []}})
case("query of an object", {"query_params": {"a": {"x": 1, "y": 2}}})
case("query null", {"query_params": None, "body": {"a": 1}})
case("query as text", {"query_params": "a=1&b=x%20y", "body": {"a": 1}})
case("query as a list of pairs", {"query_params": [["a", "1"], ["b", 2]], "body": {"a": 1}})
case("query as a list of texts", {"query_params": ["ab", "cd"], "body": {"a": 1}}, instead="nothing", because="text is no pair")
case("query as a number", {"query_params": 7, "body": {"a": 1}})

# Path parameters
case("path: one", {"path_params": {"id": "7"}}, url="/books/:id/finished")
case("path: twice", {"path_params": {"id": "7"}}, url="/:id/of/:id")
case("path: several", {"path_params": {"a": "1", "b": "2"}}, url="/:a/:b.json")
case("path: unknown", {"path_params": {"a": "1"}}, url="/:a/:c")
case("path: unused", {"path_params": {"z": "1"}}, url="/x")
case("path: null", {"path_params": None, "body": {"a": 1}}, url="/:a")
case("path: none", {"body": {"a": 1}}, url="/:a")
case("path: empty value", {"path_params": {"a": ""}}, url="/x/:a/y")
case("path: text of a number", {"path_params": {"a": "-2.5"}}, url="/:a")
case("path: number", {"path_params": {"a": 7}}, url="/:a", instead={"target": "/7"}, because=NUMBERS)
case("path: fraction", {"path_params": {"a": 2.5}}, url="/:a", instead={"target": "/2.5"}, because=NUMBERS)
case("path: true", {"path_params": {"a": True}}, url="/:a")
case("path: list", {"path_params": {"a": ["x"]}}, url="/:a")
case("path: object", {"path_params": {"a": {}}}, url="/:a")
case("path: null value", {"path_params": {"a": None}}, url="/:a")
case("path: params as a list", {"path_params": ["a"]}, url="/:a")
case("path: params as text", {"path_params": "a"}, url="/:a")
case("path: a space", {"path_params": {"a": "x y"}}, url="/:a")
case("path: not ASCII", {"path_params": {"a": "ü"}}, url="/:a")
case("path: unreserved", {"path_params": {"a": "A-z_0.9~"}}, url="/:a")
case("path: a slash", {"path_params": {"a": "x/y"}}, url="/:a", instead={"target": "/x%2Fy"}, because=ESCAPED)
case("path: a question mark", {"path_params": {"a": "x?y=1"}}, url="/:a", instead={"target": "/x%3Fy%3D1"}, because=ESCAPED)
case("path: a hash", {"path_params": {"a": "x#y"}}, url="/:a", instead={"target": "/x%23y"}, because=ESCAPED)
case("path: a percent sign", {"path_params": {"a": "100%25"}}, url="/:a", instead={"target": "/100%2525"}, because=ESCAPED)
case("path: reserved", {"path_params": {"a": "a@b:c,d;e=f"}}, url="/:a", instead={"target": "/a%40b%3Ac%2Cd%3Be%3Df"}, because=ESCAPED)
case("path: up", {"path_params": {"a": ".."}}, url="/x/:a/admin", instead="nothing", because=ESCAPED)
case("path: up, further", {"path_params": {"a": "../../admin"}}, url="/x/:a", instead={"target": "/x/..%2F..%2Fadmin"}, because=ESCAPED)
case("path: the beginning of a longer name", {"path_params": {"id": "7"}}, url="/:idx/:id", instead={"target": "/:idx/7"}, because=WHOLE)
case("path: longer name first", {"path_params": {"id": "7", "idx": "8"}}, url="/:idx/:id", instead={"target": "/8/7"}, because=WHOLE)
case("path: a value that looks like a name", {"path_params": {"a": ":b", "b": "2"}}, url="/:a/:b", instead={"target": "/%3Ab/2"}, because=ESCAPED)
case("path: in the query", {"path_params": {"a": "1"}}, url="/x?v=:a", instead={"target": "/x?v=:a"}, because=PATH)

# Which data there is
for message in ("{}", "[]", "0", "null", "false", '""'):
    case(f"message {message}", message)
for message in ("[1]", "7", "true", '"text"'):
    case(f"message {message}", message)
case("message with fields that mean nothing", '{"a":1}')
case("white space about it", ' {"body" : {"a":1} }\n')
case("a field twice", '{"body":{"a":1},"body":{"b":2}}')
case("parameters twice", '{"query_params":{"a":"1","a":"2"},"headers":{"X-A":"1","X-A":"2"},"path_params":{"a":"1","a":"2"}}', url="/:a")
case("spelt with escapes", '{"b\\u006fdy":{"a":"\\u00fc"},"headers":{"X-\\u0041":"\\u0041"}}')

# How it is encoded
ALL = base64.b64encode(b'{"body":{"a":"~~~???>>>"},"headers":{"x-a":"1"}}').decode()
case("base64 with a character that is none of it", payload=ALL[:8] + "\\" + ALL[8:])
case("base64 in lines", payload="\n".join(ALL[i:i + 16] for i in range(0, len(ALL), 16)) + "\n")
case("base64 without padding", payload=base64.b64encode(b'{"body":{"a":1}} ').decode().rstrip("="),
     instead={"headers": {}}, because="what an encoder leaves out is no reason to lose a message")
case("base64 with padding", payload=base64.b64encode(b'{"body":{"a":1}} ').decode())
case("no base64", payload="fake_base64_string_will_not_parse_to_json_isa")
case("no base64 at all", payload="malformed_base64")
case("no payload", payload="")
case("base64 of no UTF-8", payload=base64.b64encode(b'{"body":"\xff"}').decode())
case("base64 of no JSON", payload=base64.b64encode(b'{"body":').decode())
case("base64 of JSON and more", payload=base64.b64encode(b'{"body":1} x').decode())
case("a mark of the byte order", payload=base64.b64encode(b'\xef\xbb\xbf{"body":{"a":1}}').decode())
case("JSON that is none", payload=base64.b64encode(b'{"body":{"a":NaN}}').decode(), instead="nothing", because="NaN is no JSON")

# Failures: the job is tried again
for status in (400, 401, 404, 409, 429, 500, 502, 503):
    case(f"answer {status}, then 200", {"body": {"a": 1}, "path_params": {"a": "1"}}, url="/:a", answers=[status])
for status in (201, 202, 204):
    case(f"answer {status}", {"body": {"a": 1}}, answers=[status])
for status in (301, 302, 307, 308):
    case(f"answer {status}, then 200", {"body": {"a": 1}}, answers=[status], instead={"times": 2}, because=REDIRECT)

case("answer 410, then 200", {"body": {"a": 1}}, answers=[410], instead={"times": 1}, because="whoever is gone is called no more")

# Numbers as nobody's encoder but a publisher's own spells them, and text at its edges
SPELT = '"a":2.50,"b":1E3,"c":1e16,"d":0.00001,"e":-0,"f":-0.0,"g":-12.5E-1,"h":123456789012345678901234567890'
case("query of numbers as they are spelt", '{"query_params":{%s}}' % SPELT)
case("path: numbers as they are spelt", '{"path_params":{%s}}' % SPELT, url="/:a/:b/:c/:d/:e/:f/:g/:h",
     instead={"target": "/2.5/1000.0/1e%2B16/1e-05/0/-0.0/-1.25/123456789012345678901234567890"}, because=NUMBERS)
case("headers of numbers as they are spelt", '{"headers":{"X-A":2.50,"X-B":1E3}}', instead={"headers": {"x-a": "2.5", "x-b": "1000.0"}}, because=NUMBERS)
case("query as text with a line feed", {"query_params": "a=1\n2\t3"})
case("a header that begins with a space", {"headers": {"X-A": " 1"}}, instead={"headers": {"x-a": "1"}},
     because="white space before a value is no part of it (RFC 9110, 5.5)")
case("a filter of white space", {"body": {"a": 1}}, filter=" \n", topic="white-space")


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    rows = [entry | recorded(base, entry) for entry in CASES]
    for row in rows:
        assert ("instead" in row) == ("because" in row), row["name"]
        if "instead" in row:
            row["instead"] = instead(row, row["requests"])
            assert row["instead"] != row["requests"], f"{row['name']}: it is the same"
    file = pathlib.Path(__file__).parents[2] / "tests/system/switch/consumer.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="ascii")
    sent = sum(bool(row["requests"]) for row in rows)
    print(f"{len(rows)} cases, {sent} of them with a request, {sum('instead' in row for row in rows)} in which metrobus differs: {file.name}")


if __name__ == "__main__":
    main()
