"""The measures of style of each script, as a table: python -m tests.style [files]

Lines of code are those that are neither blank, nor comments, nor docstrings. A token is a name, an
operator, a number or a string.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOKENS = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}


def measure(source):
    tree = ast.parse(source)
    prose = set()  # lines of docstrings
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            prose.update(range(node.lineno, node.end_lineno + 1))
    lines = source.splitlines()
    code = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and number not in prose and not text.startswith("#"):
            code.append(re.sub(r"\s+#.*$", "", text))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    tokens = [token for token in tokens if token.type in TOKENS and token.start[0] not in prose]
    named = [node for node in tree.body if hasattr(node, "name")]
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in named}
    return {
        "lines": len(lines),
        "code lines": len(code),
        "characters a code line": sum(map(len, code)) / len(code),
        "tokens a code line": len(tokens) / len(code),
        "main": sizes.get("main", 0),
        "Policy": sizes.get("Policy", 0),
    }


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]] or sorted(ROOT.glob("*.py"))
    for path in paths:
        measures = measure(path.read_text())
        if path == paths[0]:
            print("| file | " + " | ".join(measures) + " |")
            print("|---" * (1 + len(measures)) + "|")
        print(f"| {path.name} | " + " | ".join(f"{x:.4g}" for x in measures.values()) + " |")
