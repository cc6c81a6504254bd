#!/usr/bin/env python3
"""Records what Python gives for the filters below, each over its payloads, into src/filter/tests/python.json.

The tests hold metrobus's own reading of Python against that file, so they need no Python. Run it anew when a case is
added here: scripts/filters/record.py
"""

import json
import pathlib

from python import gives, written

SWITCH = (
    '{"body":{"test_true":true,"test_false":false,"amount":120,"price":2.5,"name":"Ada","tags":["new","vip"],'
    '"lines":[{"sku":"a1","n":2},{"sku":"b2","n":0}],"none":null,"empty":"","zero":0,"obj":{},"list":[]},'
    '"headers":{"test_number":1,"test_string":"yy","alpha":"beta","Content-Type":"application/json"},'
    '"query_params":{"mi":"piacito"},"path_params":{"id":"7"},"http_method":"POST"}'
)
NUMBERS = (
    '{"i":1,"neg":-3,"f":1.0,"half":0.5,"zero":0,"nzero":-0.0,"e":1E2,"inf":1E400,"ninf":-1e400,"big":9007199254740993,'
    '"bigf":9007199254740992.0,"huge":123456789012345678901234567890,"hugef":1.2345678901234568e29,'
    '"max":9223372036854775807,"over":9223372036854775808,"min":-9223372036854775808,"minf":-9.223372036854775808e18,'
    '"nhuge":-123456789012345678901234567890,"tiny":5e-324,"e308":1e308}'
)
TEXT = (
    r'{"a":"abc","A":"ABC","e":"\u00e9","pair":"\ud83d\ude00","lone":"\ud800","low":"\udc00","bmp":"\uffff","nul":"a\u0000b",'
    r'"esc":"\"\\\/\b\f\n\r\t","k\u0065y":1,"two":1,"two":2,"one":"1","digits":"10","long":"' + "x" * 200 + '"}'
)
LISTS = (
    '{"l":[1,2,3],"m":[1,2,4],"n":[1,2],"mixed":[1,"a",null,true,[1],{"a":1}],"nest":[[1,[2,[3]]]],"d":{"a":1,"b":[1]},'
    '"d2":{"b":[1.0],"a":true},"d3":{"a":1},"s":["b","a"]}'
)

CASES = [
    # Those of switch's own tests
    (SWITCH, [
        "data['body']['test_true'] and data['headers']['test_number'] == 1",
        "data['body']['test_false'] and data['headers']['test_string'] == 'yyyy'",
        "data['headers']['alpha'] == 'beta' and data['query_params']['mi'] == 'piacito'",
        "data['body']['blabla'] == 'anything' or data['headers']['kaza'] == 'kaz_tani'",
        "data['http_method'] == 'POST'", "data['path_params']['id'] == 7", "data['path_params']['id'] == '7'",
        "data['headers']['Content-Type'] in ('application/json', 'text/json')",
        # Ways to a value, and those that end nowhere
        "data['body']['lines'][0]['sku'] == 'a1'", "data['body']['lines'][-1]['n'] == 0", "data['body']['lines'][2]['n']",
        "data['body']['lines'][-2]['n'] == 2", "data['body']['lines'][-3]", "data['body']['lines']['sku']",
        "data['body']['lines'][True]['sku'] == 'b2'", "data['body']['lines'][0.0]",
        "data['body']['lines'][99999999999999999999]", "data['body']['lines'][-99999999999999999999]",
        "data[0]", "data[None]", "data[[]]", "data['body'][('a', 'b')]", "data['body'][data['body']['name']]",
        "data['body']['name'][0] == 'A'", "data['body']['name'][-1] == 'a'", "data['body']['name'][3]", "data['body']['name']['0']",
        "data['body']['amount'][0]", "data['body']['none']['x']", "data['body']['test_true'][0]",
        "data.get('body').get('amount') == 120", "data.get('nothing')", "data.get('nothing') is None", "data.get('nothing', 5) == 5",
        "data.get('nothing', {})", "data.get('nothing', data['body']).get('name') == 'Ada'", "data.get('body', data['missing'])",
        "data['body'].get('none', 1)", "data['body'].get(1, 'd') == 'd'", "data['body'].get(None) is None", "data['body'].get([])",
        "data['body'].get((1, 2), 3) == 3", "data['body'].get((1, []), 3)", "data['body']['tags'].get(0)", "data['body']['name'].get('x')",
        "data['body']['none'].get('x')", "None.get('x')", "data.get('a',)", "data.get('a', 1,)", "data.get('nothing').get('x')", "data.get('nothing', {}).get('x', 1)", "data['body']['obj'] == {}", "{} in [{}]", "{}", "not {}", "{}['a']",
        # What counts as true
        "data['body']['empty']", "data['body']['zero']", "data['body']['obj']", "data['body']['list']", "data['body']['none']",
        "data['body']['name']", "data['body']['price']", "data", "data['body']['tags']", "()", "[]", "''", "0", "0.0", "-0.0", "(0,)", "[0]",
        "' '", "None", "True", "False", "not data['body']['obj']", "not not data['body']['name']", "not ()", "-False", "-True",
        # and, or, not: operands and order
        "data['body']['zero'] or 'x'", "(data['body']['zero'] or 'x') == 'x'", "(data['body']['name'] and 5) == 5",
        "(data['body']['empty'] and 5) == ''", "(0 or '' or [] or None) is None", "(1 and 2 and 3) == 3", "True or data['missing']",
        "data['missing'] or True", "False and data['missing']", "data['missing'] and False", "not data['missing']",
        "True and data['missing']", "False or data['missing']", "True or False and data['missing']", "not True or True",
        "not (True or data['missing'])", "not False and True", "not 1 == 2", "1 == (not 0)", "(not 1) in [False]", "not 1 in [0]",
        "(data['body']['name'] < 5) or True", "True or (data['body']['name'] < 5)", "not (data['body']['name'] < 5)",
        # in
        "'vip' in data['body']['tags']", "'old' not in data['body']['tags']", "'d' in data['body']['name']", "'' in data['body']['name']",
        "'amount' in data['body']", "'missing' not in data['body']", "1 in data['body']", "None in data", "[] in data", "(1, 2) in data",
        "([],) in data", "1 in 'abc'", "'a' in 5", "'a' in None", "1 in data['body']['amount']", "data['body']['amount'] in [100, 120.0]",
        "data['body'] in [data['body']]", "1 in [True]", "1 in (data['missing'], 1)", "'a' in ['a', data['missing']]", "'a' in ()", "[] in [[]]",
        "'da' in data['body']['name'] and 'A' not in data['headers']", "None in data['body']['tags']", "data['body']['name'] in 'Ada Lovelace'",
        # is
        "data['body']['none'] is None", "data['body']['zero'] is None", "data['body']['zero'] is not None", "data['body']['test_true'] is True",
        "1 is True", "data['headers']['test_number'] is True", "(1 == 1) is True", "None is None is None", "None is not False", "None is data",
        "data['body']['test_false'] is not False", "(1 < 2) is not (None)", "not data['body']['none'] is None", "1 == 1 is True",
    ]),
    # Numbers by what they are
    (NUMBERS, [
        "data['i'] == True", "data['i'] == 1.0", "data['f'] == 1", "data['i'] == '1'", "data['i'] != '1'", "data['zero'] == False", "data['nzero'] == 0",
        "data['nzero'] == False", "not data['nzero']", "data['half'] < True", "True < 2", "False < True <= 1.0 < 1.5", "data['big'] == data['bigf']",
        "data['big'] > data['bigf']", "data['bigf'] < data['big']", "9007199254740993 == 9007199254740992.0", "9007199254740992 == 9007199254740992.0",
        "data['huge'] == data['hugef']", "data['huge'] < data['hugef']", "data['hugef'] > data['huge']", "data['huge'] == 123456789012345678901234567890",
        "data['huge'] != 123456789012345678901234567891", "data['huge'] > data['max']", "data['nhuge'] < data['min']", "data['nhuge'] == -data['huge']",
        "data['over'] == 9223372036854775808.0", "data['over'] == -data['min']", "data['min'] == data['minf']", "-data['over'] == data['min']",
        "data['max'] == 9223372036854775807", "data['max'] < 9223372036854775808.0", "data['max'] == 9223372036854775808.0", "data['inf'] > data['huge']",
        "data['ninf'] < data['nhuge']", "data['inf'] == 1E400", "data['inf'] == -data['ninf']", "data['inf'] > 1e308", "data['e'] == 100", "data['tiny'] > 0",
        "data['tiny'] == 0", "data['e308'] < 179769313486231570814527423731704356798070567525844996598917476803157260780028538760589558632766878",
        "0xff == 255", "0o17 == 15", "0b101 == 5", "0XfF == 0B11111111", "1_000 == 1000", "0x_f_f == 255", "1_0.5_0 == 10.5", ".5 == 0.5", "5. == 5", "1e3 == 1000",
        "1E-2 == 0.01", "1.e+1 == 10", "00 == 0", "0_0 == 0", "09.5 == 9.5", "1e400 == 1e999", "0.1 == 0.10000000000000001", "3 == 3.0000000000000001",
        "-1 == -1.0", "- -1 == 1", "--1 == 1", "-data['neg'] == 3", "-data['missing']", "-'a'", "-None", "-[]", "not -0", "-data['half'] == -.5", "-1 < -0.5 < 0",
        "1 < 2 < 3", "1 < 2 > 3", "3 > 2 > data['missing']", "3 < 2 < data['missing']", "1 < 'a'", "1 == 'a'", "None < None", "None == None", "None == 0",
        "None != False", "data < data", "data == data", "1 < None", "[] < 1", "1 == 1.0 == True", "1 <= 1 >= 1 != 2", "1 < data['half'] < 'a'", "0 < data['half'] < 'a'",
        "data['huge'] in [1, 123456789012345678901234567890]", "data['i'] in [True]", "0xffffffffffffffffffffffffffffffff == 340282366920938463463374607431768211455",
    ]),
    # Text by code points
    (TEXT, [
        "data['a'] == 'abc'", 'data["a"] == "abc"', "data['a'] < 'abd'", "data['A'] < data['a']", "data['a'] > 'ab'", "'' < data['a']", "data['e'] == 'é'",
        r"data['e'] == '\xe9'", r"data['e'] == '\u00e9'", r"data['e'] == '\351'", r"data['e'] == '\U000000e9'", "data['e'] > 'z'", "data['pair'] == '😀'",
        r"data['pair'] == '\U0001f600'", r"data['pair'] == '\ud83d\ude00'", "data['pair'] > data['bmp']", "data['bmp'] > data['lone']", r"data['lone'] == '\ud800'",
        "data['lone'] < data['low']", r"'\ud800' in data['lone']", r"data['pair'][0] == '\U0001f600'", "data['pair'][1]", "data['pair'][-1] == data['pair']",
        "data['e'][0] == data['e']", r"data['nul'] == 'a\0b'", r"data['nul'] == 'a\x00b'", r"data['nul'][1] == '\000'", r"""data['esc'] == '"\\/\b\f\n\r\t'""",
        r"data['esc'] == '\"\\/\b\f\n\r\t'", r"'\d' == '\\d'", r"'\8' == '\\8'", r"'\400' == 'Ā'", r"'\18' == '\x018'", r"'\a\v' == '\x07\x0b'", "'a\\\nb' == 'ab'",
        r"'\'' == " + '"\'"', "'a' 'b' == 'ab'", "('a'\n 'b' \"c\") == data['a']", "u'abc' == data['a']", "U\"abc\" == data['a']", "data['key'] == 1", "data['two'] == 2",
        "data['one'] == 1", "data['digits'] < '9'", "data['digits'] > 9", "'b' in data['a'] and 'bc' in data['a'] and 'ac' not in data['a']", "'c' 'd' in 'abcd'",
        "data['long'] == '" + "x" * 200 + "'", "'xxy' in data['long']", "'A' in 'a'", "'#' == '#' # not '!'",
    ]),
    # Lists, tuples, dicts
    (LISTS, [
        "data['l'] == [1, 2, 3]", "data['l'] == (1, 2, 3)", "data['l'] == [1.0, 2, True]", "data['l'] == [True, 2.0, 3]", "data['l'] < data['m']", "data['n'] < data['l']",
        "data['l'] <= data['l']", "data['l'] > [1, 2]", "data['l'] < [1, 'a']", "data['l'] < [1, 2, 'a']", "data['l'] < [2, 'a']", "data['l'] < (2,)", "(1, 2) < (1, 3)",
        "(1,) < (1, 'a')", "() < (1,)", "[] == ()", "[None] < [None]", "[None] < [None, 1]", "[None] < [0]", "data['mixed'] == [1, 'a', None, True, [1], data['d3']]",
        "data['d'] == data['d2']", "data['d'] != data['d3']", "data['d3'] < data['d']", "data['nest'][0][1][1] == [3]", "data['nest'][0][1][1][0] == 3", "data['d']['b'] == [1]",
        "[1] in data['mixed']", "data['d3'] in data['mixed']", "2 in data['mixed']", "1.0 in data['mixed']", "[1, [2, [3]]] in data['nest']", "data['s'] == ['b', 'a']",
        "[data['l'], data['n']][1] == [1, 2]", "(data['l'], data['n'])[-1][0] == 1", "[data['missing']]", "[1, 2, 3][1] == 2", "[1, 2,][-1] == 2", "(1,)[0] == 1", "((1)) == 1",
        "'abc'[1] == 'b'", "'abc'[data['l'][1]] == 'c'", "[data['d']][0]['a'] == 1", "[data['d']][0].get('z', 9) == 9", "(data['l'] or 1)[0] == 1", "(None or data)['l'][2] == 3",
        "data['l'][data['l'][0]] == 2", "data['d']['b' 'c']", "data['d'].get('z', [data['l']])[0][2] == 3", "[[]] < [[1]]", "[[1]] < [['a']]", "[1, 'a'] == [1, 'a']",
        "data['mixed'] < data['mixed']", "data['mixed'] <= [1, 'a', None, True, [2]]", "data['mixed'] <= [1, 'a', None, True, 2]",
    ]),
    # Lines and white space
    ('{"a":1}', [
        " data['a']", "\t data['a'] ", "\ndata['a']", "\n\n# x\ndata['a']\n", "data['a'] # x", "data['a']\n\n  # x", "(data\n['a']\n==\n1)", "data [ 'a' ]", "data . get ( 'a' )",
        "data.get(\n'a'\n)", "data['a']\r\n", "(data['a']\r\n== 1)", "data['a']==1", "not(data['a'])", "(1)in[1]", "2 .get('a')", "2..get('a')", "[  ]", "( )", " # x\ndata['a']",
    ]),
    # Messages that are no object
    ("[1,[2]]", ["data[0] == 1", "data[1][0] == 2", "data['a']", "data.get('a')", "2 in data", "[2] in data", "data == [1, [2]]", "not data"]),
    ("5", ["data == 5", "data[0]", "data in [5]", "-data == -5"]),
    ('"text"', ["data == 'text'", "'x' in data", "data[1] == 'e'"]),
    ("null", ["data is None", "data", "data['a']"]),
    ("{}", ["data", "not data", "data['a']", "data.get('a', 1)"]),
]


def main():
    groups, count = [], 0
    for payload, texts in CASES:
        filters = [{"filter": text, "gives": gives(text, payload)} for text in texts]
        for row in filters:
            assert row["gives"] != "refused", row["filter"]
        groups.append(f'{{"data": {json.dumps(payload)}, "filters": {written(filters)}}}')
        count += len(filters)
    file = pathlib.Path(__file__).parents[2] / "src/filter/tests/python.json"
    file.write_text("[" + ",\n".join(groups) + "]\n", encoding="ascii")
    print(f"{count} filters in {file.name}")


if __name__ == "__main__":
    main()
