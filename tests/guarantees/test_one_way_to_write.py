"""Files are written by `itm.utils` alone: a kill leaves the old file or the new one, never a part.

The test reads the source of the library. Writing into an open file that `replacing` or
`unfinished_beside` gave, or into memory, is allowed everywhere.
"""

import ast
from pathlib import Path

import pytest

import itm

PAGE = Path(__file__).parents[2] / "docs/guarantees.md"
SOURCE = Path(itm.__file__).parent
MODES = set("wax+")
WRITERS = {  # function or method -> modules it may belong to; None = any object
    "open": (None,),
    "File": ("h5py", None),
    "ZipFile": ("zipfile", None),
    "touch": (None,),
    "fdopen": ("os",),
    "write_text": (None,),
    "write_bytes": (None,),
    "save": ("np", "numpy", "torch", "picture", "image", "small", "thumb"),
    "savez": ("np", "numpy"),
    "savez_compressed": ("np", "numpy"),
    "save_npz": (None,),
    "savetxt": ("np", "numpy"),
    "tofile": (None,),
    "memmap": ("np", "numpy"),
    "dump": ("json", "pickle", "yaml", "torch"),
    "savefig": (None,),
    "to_csv": (None,),
    "to_json": (None,),
    "save_file": (None,),
    "write_index": ("faiss", None),
    "open_memmap": (None,),
    "copy": ("shutil",),
    "copy2": ("shutil",),
    "copyfile": ("shutil",),
    "copytree": ("shutil",),
    "move": ("shutil",),
    "rename": (None,),
    "symlink_to": (None,),
    "replace": (None,),
    "renames": ("os",),
    "NamedTemporaryFile": (None,),
    "mkstemp": (None,),
}
SAFE = {"replacing", "unfinished_beside", "BytesIO", "StringIO"}  # give what may be written into
BARE = {
    "save_file", "savez", "savez_compressed", "savetxt", "save_npz", "dump",
    "copy2", "copyfile", "copytree",
}  # fmt: skip
MODULES = {"io", "os", "gzip", "bz2", "lzma", "tarfile", "builtins"}  # open(path, mode)
OPENERS = ("open", "fdopen", "File", "ZipFile", "memmap", "open_memmap")  # the mode says whether
FLAGS = ("O_CREAT", "O_WRONLY", "O_RDWR")

ALLOWED = {  # (module, function): why it writes by itself
    ("scenes/corpus.py", "write_scenes"): "a new folder, renamed when complete; scenes stand alone",
    ("scenes/corpus.py", "_write_split"): "into that folder",
    ("scenes/corpus.py", "_write_lines"): "into that folder",
    ("scenes/picture.py", "render"): "a picture at a path that the caller gives",
    ("features/store.py", "_open"): "filled row by row in the unfinished folder of `building`",
    ("app/run_folder.py", "_lock"): "an empty file that is locked, never read",
    ("data/word_cache.py", "cached_words"): "sets the time of a file that is there",
    ("app/replaced.py", "put_aside"): "moves a whole earlier run aside until the new one trains",
    ("app/replaced.py", "_restore"): "moves it back",
    ("app/replaced.py", "_delete"): "moves it away, so that no part of it is restored",
}


def writes(tree):
    """Yield the function and line of each call that may write a file by itself."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def function_of(node):
        while node in parents and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node = parents[node]
        return node

    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name, owner = called(call.func)
        if name not in WRITERS or not is_writer(call, name, owner):
            continue
        inside = function_of(call)
        safe = safe_names(inside)
        given = {node.id for x in call.args for node in ast.walk(x) if isinstance(node, ast.Name)}
        if not given & safe and owner not in safe:
            yield getattr(inside, "name", "<module>"), call.lineno


def called(function):
    """The name of what is called, and the name before the dot: None without one."""
    if isinstance(function, ast.Name):
        return function.id, None
    if isinstance(function, ast.Attribute):
        value = function.value
        return function.attr, value.id if isinstance(value, ast.Name) else "?"
    return None, None


def is_writer(call, name, owner):
    places = WRITERS[name]
    if name in OPENERS:
        of_a_path = name == "open" and owner is not None and owner not in MODULES
        modes = [k.value for k in call.keywords if k.arg == "mode"]
        modes += call.args[0 if of_a_path else 1 :]
        named = not of_a_path and "memmap" not in name  # a mode in a variable may be any
        return any(may_write(x) or (named and isinstance(x, ast.Name)) for x in modes)
    if owner is None:
        return name in BARE or name.startswith(("mk", "Named"))
    if name in ("replace", "rename"):  # str.replace takes two; dataclasses.replace keywords
        return owner == "os" or (len(call.args) == 1 and not call.keywords)
    if name in ("write_text", "write_bytes"):
        return True
    return owner in places or None in places


def may_write(mode):
    """Tell whether this is a mode such as "wb", or flags of os.open that make or change a file."""
    if isinstance(mode, ast.Constant):
        letters = set(str(mode.value))
        return bool(letters & MODES) and letters <= set("rwaxbt+-:gz2")  # else an encoding
    return any(flag in ast.unparse(mode) for flag in FLAGS)


def safe_names(function):
    """Names in a function that stand for memory or for a file under construction."""
    found = set()
    for node in ast.walk(function):
        pairs = []
        if isinstance(node, ast.withitem):
            pairs = [(node.optional_vars, node.context_expr)]
        elif isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
            for target, value in pairs[:]:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs += zip(target.elts, value.elts, strict=False)
        for target, value in pairs:
            made = isinstance(value, ast.Call) and called(value.func)[0] in SAFE
            if made and isinstance(target, ast.Name):
                found.add(target.id)
    return found


def test_only_utils_writes_files():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).as_posix()
        if not module.startswith("utils/"):
            for function, line in writes(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault((module, function), f"{module}:{line}")
    unknown = [place for key, place in found.items() if key not in ALLOWED]
    assert not unknown, f"write by itm.utils.files or itm.utils.folders: {', '.join(unknown)}"
    unused = [key for key in ALLOWED if key not in found]
    assert not unused, f"no longer needed: {unused}"


@pytest.mark.skipif(not PAGE.is_file(), reason="docs come with the repository only")
def test_the_page_counts_the_functions_that_may_write():
    assert f"; {len(ALLOWED)} functions are allowed" in PAGE.read_text(encoding="utf-8")


def test_direct_writes_are_recognised():
    direct = [
        "open(p, 'w')", "open(p, mode='ab')", "p.open('w')", "p.write_text('')", "np.save(p, x)",
        "np.savez_compressed(p, x=x)", "json.dump(x, f)", "torch.save(x, p)", "fig.savefig(p)",
        "frame.to_csv(p)", "shutil.move(a, b)", "os.replace(a, b)", "a.rename(b)", "a.replace(b)",
        "save_file(x, p)", "open_memmap(p, mode='w+', shape=s)", "x.tofile(p)",
        "gzip.open(p, 'wb')", "io.open(p, 'w')", "tarfile.open(p, 'w:gz')", "h5py.File(p, 'w')",
        "os.open(p, os.O_WRONLY | os.O_CREAT)", "zipfile.ZipFile(p, 'w')", "ZipFile(p, mode='a')",
        "np.memmap(p, dtype, 'w+')", "thumb.save(p)", "copy2(a, b)", "dump(x, f)", "p.touch()",
        "open(p, m)", "os.open(p, flags)", "h5py.File(p, 'w-')",
    ]  # fmt: skip
    fine = [
        "h5py.File(p, 'r')", "np.memmap(p, dtype)", "copy(x)", "gzip.open(p)", "ZipFile(p)",
        "os.open(p, os.O_RDONLY)", "Image.open(p)",
        "open(p)", "open(p, 'rb')", "p.open()", "write_text(p, '')", "text.replace('a', 'b')",
        "open_memmap(p, mode='r')", "replace(run, name=1)", "matcher.save(p)", "move(a, b)",
        "with replacing(p) as file:\n        np.save(file, x)",
        "buffer = BytesIO(); f.savefig(buffer)", "x, part = 1, io.BytesIO(); np.save(part, x)",
    ]  # fmt: skip
    for text in direct:
        assert list(writes(ast.parse(f"def f():\n    {text}"))) == [("f", 2)], text
    for text in fine:
        assert not list(writes(ast.parse(f"def f():\n    {text}"))), text
