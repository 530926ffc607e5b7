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
DENSE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.NamedExpr)


def docstring_lines(tree):
    lines = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            lines.update(range(node.lineno, node.end_lineno + 1))
    return lines


def definition_sizes(tree):
    """Lines of each function and class at the top level."""
    sizes = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            sizes[node.name] = node.end_lineno - node.lineno + 1
    return sizes


def measure(source):
    tree = ast.parse(source)
    lines = source.splitlines()
    prose = docstring_lines(tree)
    code = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and number not in prose and not text.startswith("#"):
            code.append(re.sub(r"\s+#.*$", "", text))
    tokens = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        tokens += token.type in TOKENS and token.start[0] not in prose
    return {
        "code lines": len(code),
        "characters a line": sum(len(text) for text in code) / len(code),
        "lines over 100": sum(len(line) > 100 for line in lines),
        "tokens a line": tokens / len(code),
        "main": definition_sizes(tree).get("main", 0),
        "dense expressions": sum(isinstance(node, DENSE) for node in ast.walk(tree)),
    }


def table(paths):
    rows = []
    for path in paths:
        measures = measure(path.read_text())
        if not rows:
            rows.append("| file | " + " | ".join([*measures, "largest"]) + " |")
            rows.append("|---" * (len(measures) + 2) + "|")
        sizes = definition_sizes(ast.parse(path.read_text()))
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        cells = [f"{value:.1f}" if value % 1 else f"{value:.0f}" for value in measures.values()]
        cells.append(", ".join(f"{name} {sizes[name]}" for name in largest))
        rows.append(f"| {path.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]] or sorted(ROOT.glob("*.py"))
    print(table(paths))
