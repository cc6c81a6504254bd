"""What switch's consumer did with a filter: its check_filter_expression_satisfied, with the exception told apart."""

import json
import warnings

warnings.simplefilter("ignore")


def gives(text, payload):
    """True or False, the name of the exception that is raised, or "refused" where the text is no expression."""
    data = json.loads(payload)
    try:
        code = compile(text.lstrip(" \t"), "<filter>", "eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
        return "refused"
    try:
        return bool(eval(code, {"__builtins__": {}}, {"data": data}))
    except Exception as error:
        return type(error).__name__


def written(rows):
    """A JSON list, a row a line."""
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
