"""Faults of the kinds that people make, in Python source: a sign turned, a keyword dropped, a key ignored.

`faults` lists every fault that could be planted in a file; `Fault.planted` gives the file's text with one of them.

Not touched, since no behaviour hangs on it: strings and what stands inside f-strings (wording), annotations and type
aliases, `__all__`, imports, class decorators, what is raised (the text of an error) and `assert` (it says what cannot
happen). For the same reason some arguments stay: `strict` and `encoding` (they say what holds anyway), `device` and the
moves between devices (there is one). In files that draw (`DRAWN`) numbers and keyword arguments are style and stay too.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DRAWN = {"evals/plots.py", "evals/theme.py"}
"""Files whose numbers and keywords are how a picture looks."""

_KEPT_KEYWORDS = {"strict", "encoding", "device", "non_blocking", "stacklevel"}
_KEPT_CALLS = {"cast", "isinstance", "issubclass", "getattr", "hasattr", "field", "TypeVar", "compile"}
_OTHER_NAMES = {
    one: other
    for pair in (
        *("min max", "amin amax", "minimum maximum", "argmin argmax", "sum mean", "any all", "floor ceil"),
        *("zeros ones", "zeros_like ones_like", "std var", "startswith endswith", "lstrip rstrip"),
        *("removeprefix removesuffix", "triu tril", "append extend", "logsigmoid sigmoid"),
    )
    for one, other in (pair.split(), pair.split()[::-1])
}
_PASSING_METHODS = {
    *(
        "detach",
        "clone",
        "abs",
        "exp",
        "expm1",
        "log",
        "sqrt",
        "square",
        "sigmoid",
        "float",
        "double",
        "flip",
        "cumsum",
    ),
    *("clamp", "clamp_min", "masked_fill", "fill_diagonal_", "sort", "strip", "rstrip", "lstrip", "lower", "casefold"),
    *("removeprefix", "removesuffix"),
}
"""Methods whose result can stand for what they were called on."""

_RECIPES = ("recipe", "sampling", "optimizer", "term", "holdout", "pretraining")
"""What recipes and their sections are called where they are read."""

_PASSING_FUNCTIONS = {"sorted": "list", "reversed": "list", "abs": "", "round": "", "sqrt": "", "exp": "", "log": ""}

_COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that can be planted.

    Attributes:
        file: relative to the source's root.
        function: qualified name; empty at the level of the module.
        what: the kind, what stands there and what comes in its place.
        line: where, from 1.
        start, end, text: the bytes that ``text`` replaces.
        lines: first and last of its statement: who runs none of them cannot see the fault.
        on_import: it runs when the module is imported, before any test.
    """

    file: str
    function: str
    what: str
    line: int
    start: int
    end: int
    text: str
    lines: tuple[int, int]
    on_import: bool

    @property
    def id(self) -> str:
        """Stays the same when lines move."""
        return f"{self.file} {self.function or '(module)'}: {self.what}"

    def planted(self, source: str) -> str:
        """The file's text with the fault in it."""
        text = source.encode()
        return (text[: self.start] + self.text.encode() + text[self.end :]).decode()


@dataclass(frozen=True, slots=True)
class Index:
    """What a file alone does not tell.

    Attributes:
        defaults: recipe keys and the source of their defaults.
        siblings: fields of data classes, and the next one of the same class and type.
    """

    defaults: Mapping[str, str] = field(default_factory=dict)
    siblings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, recipes: Iterable[Path], classes: Iterable[Path]) -> Index:
        """From the files of the recipes and those of the rooms; a field that two classes have is left out."""
        defaults: dict[str, str] = {}
        for each in (each for fields in _fields(recipes) for each in fields):
            value = each.value
            if isinstance(value, ast.Call) and value.args:
                value = value.args[0]  # Field(default, ...)
            if isinstance(value, ast.Constant):
                defaults.setdefault(ast.unparse(each.target), ast.unparse(value))
        siblings: dict[str, str] = {}
        owners: Counter[str] = Counter()
        for fields in _fields(classes):
            alike = defaultdict(list)
            for each in fields:
                alike[ast.unparse(each.annotation)].append(ast.unparse(each.target))
            for names in alike.values():
                owners.update(names)
                siblings |= {name: names[i - 1] for i, name in enumerate(names) if len(names) > 1}
        return cls(defaults, {name: other for name, other in siblings.items() if owners[name] == 1})


def _fields(paths: Iterable[Path]) -> Iterator[list[ast.AnnAssign]]:
    """The annotated fields of every class in some files."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield [each for each in node.body if isinstance(each, ast.AnnAssign)]


def faults(source: str, file: str, index: Index | None = None) -> list[Fault]:
    """Every fault of our kinds in a file, in the order of its lines."""
    finder = _Finder(source, file, index or Index())
    finder.visit(ast.parse(source))
    found, seen = [], Counter[tuple[str, str]]()
    for fault in sorted(finder.found, key=lambda fault: (fault.start, fault.what)):
        seen[fault.function, fault.what] += 1
        number = seen[fault.function, fault.what]
        found.append(_renamed(fault, f"{fault.what} (number {number})") if number > 1 else fault)
    return found


def _renamed(fault: Fault, what: str) -> Fault:
    return Fault(**{name: getattr(fault, name) for name in Fault.__slots__} | {"what": what})


def _name(call: ast.Call) -> str:
    """The last name of what is called."""
    function = call.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_wording(node: ast.expr) -> bool:
    """A sentence, not a name."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and " " in node.value
    return isinstance(node, ast.JoinedStr)


def _arguments(node: ast.FunctionDef) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Every parameter that has a name and its default."""
    places, given = [*node.args.posonlyargs, *node.args.args], node.args.defaults
    yield from zip(places, [None] * (len(places) - len(given)) + list(given), strict=True)
    yield from zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)


class _Finder(ast.NodeVisitor):
    """Walks over a file and notes what could be planted where."""

    def __init__(self, source: str, file: str, index: Index) -> None:
        self.file, self.index = file, index
        self.found: list[Fault] = []
        self.begins = [0]
        for line in source.encode().splitlines(keepends=True):
            self.begins.append(self.begins[-1] + len(line))
        self.scopes: list[ast.FunctionDef | ast.ClassDef] = []
        self.statement: ast.stmt | None = None
        self.in_header = False
        """In the decorators or defaults of a function."""

    # what is noted

    def add(self, node: ast.expr | ast.stmt, kind: str, new: ast.expr | str, what: str = "") -> None:
        """Note that ``new`` can stand in a node's place."""
        if isinstance(new, str):
            text = new
        else:
            text = ast.unparse(new)
            if not isinstance(new, ast.Name | ast.Attribute | ast.Call | ast.Constant | ast.Subscript):
                text = f"({text})"
        statement = self.statement or node
        inner = [scope for scope in self.scopes if isinstance(scope, ast.FunctionDef)]
        on_import = not inner or (self.in_header and len(inner) == 1)
        last = statement.end_lineno or statement.lineno
        if body := getattr(statement, "body", None):  # of `if` and `for` only what stands before the colon
            last = max(statement.lineno, body[0].lineno - 1)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        self.found.append(
            Fault(
                file=self.file,
                function=".".join(scope.name for scope in self.scopes),
                what=f"{kind}: {what or f'{ast.unparse(node)} → {text}'}",
                line=node.lineno,
                start=self.begins[node.lineno - 1] + node.col_offset,
                end=self.begins[node.end_lineno - 1] + node.end_col_offset,
                text=text,
                lines=(statement.lineno, last),
                on_import=on_import,
            )
        )

    def forced(self, test: ast.expr) -> None:
        """A condition that always holds, and one that never does."""
        if not isinstance(test, ast.Constant) and not any(isinstance(each, ast.NamedExpr) for each in ast.walk(test)):
            for value in ("True", "False"):
                self.add(test, "condition", value)
        self.visit(test)

    # statements

    def visit(self, node: ast.AST) -> None:
        """Keep the innermost statement."""
        outer = self.statement
        if isinstance(node, ast.stmt):
            self.statement = node
        super().visit(node)
        self.statement = outer

    def visit_Module(self, node: ast.Module) -> None:
        """All but its imports and names."""
        for each in node.body:
            if not (isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test)):
                self.visit(each)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body; the decorators and bases are declarations."""
        self.scopes.append(node)
        for each in node.body:
            self.visit(each)
        self.scopes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Decorators that switch gradients off, defaults, and the body."""
        self.scopes.append(node)
        self.in_header = True
        for decorator in node.decorator_list:
            name = ast.unparse(decorator)
            if "grad" in name or "inference" in name:
                self.add(decorator, "decorator dropped", "(lambda function: function)", name)
        for _, default in _arguments(node):
            if default is not None:
                self.visit(default)
        self.in_header = False
        for each in node.body:
            self.visit(each)
        self.scopes.pop()

    def skip(self, node: ast.AST) -> None:
        """Nothing in it is touched."""

    visit_Raise = visit_Assert = visit_Import = visit_ImportFrom = visit_JoinedStr = visit_arg = skip

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value, not the type."""
        if node.value and ast.unparse(node.annotation) != "TypeAlias":
            self.removable(node, [node.target])
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """The value, its sign, and whether it is kept."""
        if ast.unparse(node.targets[0]) == "__all__" or (not self.scopes and isinstance(node.value, ast.Subscript)):
            return
        self.removable(node, node.targets)
        if isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Mult | ast.Div) and self.scopes:
            self.add(node.value, "sign", ast.UnaryOp(ast.USub(), node.value))
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                self.visit(target)
        self.visit(node.value)

    def removable(self, node: ast.Assign | ast.AnnAssign, targets: Iterable[ast.expr]) -> None:
        """An assignment to an object, or to a name that has a value already, can be left out."""
        if not self.scopes or not isinstance(self.scopes[-1], ast.FunctionDef):
            return
        function = self.scopes[-1]
        if function.name == "__init__":  # nothing would work without it
            return
        known = {argument.arg for argument, _ in _arguments(function)}
        for each in ast.walk(function):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.lineno < node.lineno:
                known.add(each.id)
        if all(isinstance(t, ast.Attribute | ast.Subscript) or ast.unparse(t) in known for t in targets):
            self.add(node, "statement removed", "pass", ast.unparse(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Left out, or with another operator."""
        self.add(node, "statement removed", "pass", ast.unparse(node))
        if other := _OPERATORS.get(type(node.op)):
            text = ast.unparse(ast.AugAssign(node.target, other(), node.value))
            self.add(node, "operator", text)
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call for its effect can be left out."""
        if isinstance(node.value, ast.Call):
            self.add(node, "statement removed", "pass", ast.unparse(node))
        self.visit(node.value)

    def visit_Continue(self, node: ast.Continue | ast.Break) -> None:
        """Left out."""
        self.add(node, "statement removed", "pass", ast.unparse(node))

    visit_Break = visit_Continue

    def visit_Return(self, node: ast.Return) -> None:
        """The sign, the truth or the order of what is returned."""
        value, function = node.value, self.scopes[-1]
        if value is None:
            self.add(node, "statement removed", "pass", "return")
            return
        given = ast.unparse(function.returns) if isinstance(function, ast.FunctionDef) and function.returns else ""
        if given in ("Tensor", "float", "int") and not isinstance(value, ast.UnaryOp | ast.Constant):
            self.add(value, "sign", ast.UnaryOp(ast.USub(), value))
        if given == "bool" and not isinstance(value, ast.UnaryOp | ast.Constant | ast.Compare):
            self.add(value, "negated", ast.UnaryOp(ast.Not(), value))
        if isinstance(value, ast.Tuple) and len(value.elts) == 2:
            self.add(value, "order", ast.Tuple(value.elts[::-1], ast.Load()))
        self.visit(value)

    def visit_If(self, node: ast.If) -> None:
        """The condition forced."""
        self.forced(node.test)
        for each in (*node.body, *node.orelse):
            self.visit(each)

    def visit_While(self, node: ast.While) -> None:
        """The condition itself; forced it would only hang."""
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        """A context that gives no name can be left out."""
        for item in node.items:
            if item.optional_vars is None:
                text = "__import__('contextlib').nullcontext()"
                self.add(item.context_expr, "context dropped", text, ast.unparse(item.context_expr))
            self.visit(item.context_expr)
        for each in node.body:
            self.visit(each)

    # expressions

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The condition forced."""
        self.forced(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Nothing is sieved out."""
        self.visit(node.iter)
        for test in node.ifs:
            if not any(isinstance(each, ast.NamedExpr) for each in ast.walk(test)):
                self.add(test, "condition", "True")
            self.visit(test)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Another comparison: at the boundary, or the other way round."""
        if len(node.ops) == 1:
            for other in _COMPARISONS[type(node.ops[0])]:
                self.add(node, "comparison", ast.Compare(node.left, [other()], node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`and` for `or`, and without one of the operands."""
        self.add(node, "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        for dropped in node.values:
            if not any(isinstance(each, ast.NamedExpr) for each in ast.walk(dropped)):
                left = [each for each in node.values if each is not dropped]
                self.add(node, "operand dropped", left[0] if len(left) == 1 else ast.BoolOp(node.op, left))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Another operator, or the operands swapped."""
        sides = (node.left, node.right)
        is_text = any(
            isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
        )
        other = _OPERATORS.get(type(node.op))
        if other and not is_text and (self.scopes or not isinstance(node.op, ast.BitOr)):
            self.add(node, "operator", ast.BinOp(node.left, other(), node.right))
            if isinstance(node.op, ast.Sub | ast.Div):
                self.add(node, "operands swapped", ast.BinOp(node.right, node.op, node.left))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without its sign or its `not`."""
        self.add(node, "sign" if isinstance(node.op, ast.USub) else "negation dropped", node.operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Another number, the other truth."""
        if isinstance(node.value, bool):
            self.add(node, "constant", str(not node.value))
        elif isinstance(node.value, int | float) and self.file not in DRAWN:
            self.add(node, "constant", repr(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0))

    def visit_Name(self, node: ast.Name) -> None:
        """A parameter ignored, or another of the same type in its place."""
        function = self.scopes[-1] if self.scopes else None
        if not isinstance(node.ctx, ast.Load) or not isinstance(function, ast.FunctionDef) or self.in_header:
            return
        arguments = {argument.arg: (argument, default) for argument, default in _arguments(function)}
        if node.id not in arguments:
            return
        argument, default = arguments[node.id]
        if isinstance(default, ast.Constant):
            self.add(node, "parameter ignored", ast.unparse(default))
        if argument.annotation:
            kind = ast.unparse(argument.annotation)
            alike = [
                n for n, (other, _) in arguments.items() if other.annotation and ast.unparse(other.annotation) == kind
            ]
            if len(alike) > 1:
                self.add(node, "wrong variable", alike[alike.index(node.id) - 1])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A recipe's key ignored, or another field of the same type."""
        if isinstance(node.ctx, ast.Load):
            base = ast.unparse(node.value)
            if node.attr in self.index.defaults and base.split(".")[-1] in _RECIPES:
                self.add(node, "key ignored", self.index.defaults[node.attr])
            if node.attr in self.index.siblings and base != "self":
                self.add(node, "wrong field", ast.Attribute(node.value, self.index.siblings[node.attr], ast.Load()))
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Slices with a bound less."""
        for place in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            if isinstance(place, ast.Slice):
                for bound in ("lower", "upper", "step"):
                    if value := getattr(place, bound):
                        setattr(place, bound, None)
                        new = ast.unparse(node)
                        setattr(place, bound, value)
                        self.add(node, "bound dropped", new)
                        if bound != "step" and not isinstance(value, ast.Constant | ast.UnaryOp):
                            self.add(value, "off by one", ast.BinOp(value, ast.Sub(), ast.Constant(1)))
        self.visit(node.value)
        self.visit(node.slice)

    def visit_Dict(self, node: ast.Dict) -> None:
        """An entry dropped."""
        for number, key in enumerate(node.keys):
            if isinstance(key, ast.Constant) and self.file not in DRAWN:
                others = [i for i in range(len(node.keys)) if i != number]
                new = ast.Dict([node.keys[i] for i in others], [node.values[i] for i in others])
                self.add(node, "entry dropped", ast.unparse(new), ast.unparse(key))
        for value in node.values:
            self.visit(value)

    def visit_Call(self, node: ast.Call) -> None:
        """A keyword dropped, two arguments swapped, another function, or none."""
        name = _name(node)
        if name in _KEPT_CALLS:
            return
        self.keywords(node, name)
        self.positions(node, name)
        if name in _OTHER_NAMES:
            other = _OTHER_NAMES[name]
            function: ast.expr = ast.Name(other, ast.Load())
            if isinstance(node.func, ast.Attribute):
                function = ast.Attribute(node.func.value, other, ast.Load())
            self.add(node, "function", ast.Call(function, node.args, node.keywords))
        of_module = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("np", "torch", "math")
        if isinstance(node.func, ast.Attribute) and name in _PASSING_METHODS and not of_module:
            self.add(node, "call dropped", node.func.value)
        elif name in _PASSING_FUNCTIONS and node.args and (of_module or isinstance(node.func, ast.Name)):
            self.add(node, "call dropped", f"{_PASSING_FUNCTIONS[name]}({ast.unparse(node.args[0])})")
        if name == "where" and len(node.args) == 3:
            self.add(node, "mask ignored", node.args[1])
            self.add(node.args[0], "mask turned", ast.UnaryOp(ast.Invert(), node.args[0]))
        if name in ("min", "max") and isinstance(node.func, ast.Name) and len(node.args) == 2:
            for kept in node.args:
                if not isinstance(kept, ast.Starred):
                    self.add(node, "bound dropped", kept)
        if name == "range":
            ends = [*node.args[: 1 if len(node.args) == 1 else 2]]
            self.add(ends[-1], "off by one", ast.BinOp(ends[-1], ast.Sub(), ast.Constant(1)))
        self.visit(node.func.value if isinstance(node.func, ast.Attribute) else node.func)
        for each in node.args:
            self.visit(each)
        for keyword in node.keywords:
            if keyword.arg not in _KEPT_KEYWORDS and self.file not in DRAWN:
                self.visit(keyword.value)

    def keywords(self, node: ast.Call, name: str) -> None:
        """Each keyword left to its default."""
        for dropped in node.keywords:
            if dropped.arg not in _KEPT_KEYWORDS and self.file not in DRAWN and not _is_wording(dropped.value):
                left = [keyword for keyword in node.keywords if keyword is not dropped]
                said = f"{dropped.arg or '**'}={ast.unparse(dropped.value)} of {name}"
                self.add(node, "keyword dropped", ast.Call(node.func, node.args, left), said)

    def positions(self, node: ast.Call, name: str) -> None:
        """Two neighbours swapped where both are things with a name."""
        for i in range(len(node.args) - 1):
            if all(isinstance(each, ast.Name | ast.Attribute) for each in node.args[i : i + 2]):
                new = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
                said = f"{ast.unparse(node.args[i])}, {ast.unparse(node.args[i + 1])} of {name}"
                self.add(node, "arguments swapped", ast.Call(node.func, new, node.keywords), said)
