"""Pretend an accelerator: tensors that say they are on a GPU, with their numbers on the host.

Everything that a GPU would do goes through one dispatch mode, which
  * refuses operations that mix the host with the device, as CUDA does,
  * notes each place that waits for the device: a value asked for, a blocking copy, a boolean index,
  * counts kernel launches, bytes and matrix FLOPs, each with the library's file:line.

The device calls itself "maia", an accelerator type that a CPU build of torch knows. Its autocast
lists are CUDA's own, and it needs no driver for autograd. Importing this module changes torch for
the whole process, and needs the torch release that it was written for (one poke into libc10).
"""

import collections
import contextlib
import ctypes
import pathlib
import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
DEVICE = torch.device("maia", 0)
SOURCE = "/itm/"  # files whose lines are named
HERE = str(pathlib.Path(__file__).resolve())


def _device_guard():
    """Give the device the no-op guard of meta tensors, as autograd asks each device for one."""
    _setup_privateuseone_for_python_backend("simulated")
    lib = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent / "lib" / "libc10.so"))
    table = (ctypes.c_void_p * 21).in_dll(lib, "_ZN3c104impl26device_guard_impl_registryE")
    table[8] = table[8] or table[14]
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor(x, device=...) is a host tensor and a copy


_device_guard()
_any_autocast = torch._C._is_any_autocast_enabled
torch._C._is_any_autocast_enabled = lambda: (
    _any_autocast() or torch.is_autocast_enabled(DEVICE.type)
)


class Fake(torch.Tensor):
    """On the device; `inner` on the host (or on meta: shapes alone)."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Fake({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of the simulation")


VIEWS = {
    "view",
    "_unsafe_view",
    "expand",
    "t",
    "transpose",
    "permute",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "as_strided",
    "unbind",
    "diagonal",
    "unfold",
    "lift_fresh",
    "_reshape_alias",
    "_conj",
    "_neg_view",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach_",
    "set_",
    "t_",
    "squeeze_",
    "unsqueeze_",
    "sym_size",
    "sym_stride",
    "sym_numel",
    "is_same_size",
    "_to_cpu",
    "view_as_real",
}  # no kernel
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
ASKS = {"_local_scalar_dense", "equal", "is_nonzero", "item"}
COUNTS = {
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
}
HOST_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
Event = collections.namedtuple("Event", "name kind site backward bytes flops dtype shape")


class Simulation(TorchDispatchMode):
    """While active, `DEVICE` exists.

    Args:
        shapes_only: keep no numbers; comparisons are False and counts the largest possible.
    """

    def __init__(self, shapes_only=False):
        super().__init__()
        self.shapes_only = shapes_only
        self.events, self.quiet = [], 0
        self.functions = Functions(self)

    def __enter__(self):
        self.functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.functions.__exit__(*error)

    @contextlib.contextmanager
    def paused(self):
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def put(self, x):
        """A host tensor's copy on the device."""
        with self.paused():
            found = Fake(x.detach().to("meta") if self.shapes_only else x.detach().clone())
            found.sent = x.detach().clone() if self.shapes_only and x.numel() < 10_000 else None
            return found

    def fetch(self, x):
        """A device tensor's copy on the host."""
        with self.paused():
            if self.shapes_only:
                sent = getattr(x, "sent", None)  # small ones that came from the host are known
                return torch.zeros(x.shape, dtype=x.dtype) if sent is None else sent.clone()
            return x.inner.clone()

    def note(self, name, kind, out=(), reads=(), flops=0):
        if self.quiet:
            return
        node = torch._C._current_autograd_node()
        site = where() or (forward_site(node) if node is not None else "") or "torch"
        bytes_ = sum(x.numel() * x.element_size() for x in (*out, *reads))
        first = next(iter(out), None)
        self.events.append(
            Event(
                name,
                kind,
                site,
                node is not None,
                bytes_,
                flops,
                None if first is None else first.dtype,
                None if first is None else tuple(first.shape),
            )
        )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self.quiet:
            return function(*args, **kwargs)
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in leaves if isinstance(x, Fake)]
        host = [x for x in leaves if not isinstance(x, Fake) and x.device.type == "cpu"]
        name = function._schema.name.removeprefix("aten::")
        target = kwargs.get("device")
        there = target is not None and torch.device(target).type == DEVICE.type
        if not ours and not there:
            return function(*args, **kwargs)  # host only
        if name in ("_to_copy", "copy_"):
            return self._copy(function, name, args, kwargs, there)
        if name == "_pack_padded_sequence":
            return self._pack(args)
        if name == "_pack_padded_sequence_backward":
            return self._pack_backward(args)
        if name in ASKS:
            self.note(name, "wait")
            if self.shapes_only:
                return (
                    False if name in ("equal", "is_nonzero") or ours[0].dtype == torch.bool else 0
                )
            with self.paused():
                return function(*tree_map(inner, args), **tree_map(inner, kwargs))
        wide = [x for x in host if x.dim()]
        if (
            wide
            and name in HOST_INDEX
            and isinstance(args[0], Fake)
            and not any(x is args[0] for x in wide)
        ):
            self.note(f"{name} by an index on the host", "wait")
            args = tree_map(lambda x: self.put(x) if any(x is w for w in wide) else x, args)
        elif wide or (
            host
            and torch.Tag.pointwise not in function.tags
            and name
            not in (
                "index_put_",
                "fill_",
                "full_like",
                "scatter",
                "masked_fill",
                "masked_fill_",
                "where",
                "_foreach_mul_",
                "_foreach_div_",
                "_foreach_mul",
            )
        ):
            raise RuntimeError(
                f"{function}: expected all tensors on one device, found {DEVICE} and cpu: "
                + ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in host)
                + f" at {where()}"
            )
        if name in COUNTS:
            self.note(name, "wait")
        masks = [
            x
            for x in (args[1] if name in HOST_INDEX else ())
            if x is not None and x.dtype == torch.bool
        ]
        if masks and not (name.startswith(("index_put", "_index_put")) and args[2].numel() == 1):
            self.note(f"{name} by a mask", "wait")
        if there:
            kwargs["device"] = torch.device("meta" if self.shapes_only else "cpu")
        with self.paused():
            if self.shapes_only and (masks or name in COUNTS):
                result = largest(name, tree_map(inner, args), tree_map(inner, kwargs), function)
            else:
                result = function(*tree_map(inner, args), **tree_map(inner, kwargs))
        found = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        if name not in VIEWS and not function.is_view:
            flops = product_flops(name, args, result) if name in PRODUCTS else 0
            self.note(name, "product" if flops else "kernel", found, [x for x in ours], flops)
        wrapped = tree_map(lambda x: Fake(x) if isinstance(x, torch.Tensor) else x, result)
        return return_and_correct_aliasing(function, args, kwargs, wrapped)

    def _copy(self, function, name, args, kwargs, there):
        if name == "_to_copy":
            source, waits = args[0], not kwargs.get("non_blocking", False)
            dtype = kwargs.get("dtype") or source.dtype
            if isinstance(source, Fake) and (kwargs.get("device") is None or there):
                with self.paused():
                    result = source.inner.to(dtype, copy=True)
                self.note(f"to {str(dtype)[6:]}", "kernel", [result], [source])
                return Fake(result)
            if isinstance(source, Fake):
                self.note(
                    f"copy to the host {tuple(source.shape)}",
                    "wait" if waits else "kernel",
                    [source],
                )
                with self.paused():
                    return self.fetch(source).to(dtype)
            self.note(
                f"copy to the device {tuple(source.shape)}", "wait" if waits else "upload", [source]
            )
            with self.paused():
                return self.put(source.to(dtype))
        target, source = args[:2]
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        with self.paused():
            if isinstance(target, Fake) and isinstance(source, Fake):
                target.inner.copy_(source.inner)
            elif isinstance(target, Fake):
                target.inner.copy_(source)
            else:
                target.copy_(self.fetch(source))
        if isinstance(target, Fake) and isinstance(source, Fake):
            self.note(name, "kernel", [target], [source])
        else:
            kind = "wait" if waits and (source.dim() or not isinstance(target, Fake)) else "upload"
            self.note(f"copy_ between host and device {tuple(source.shape)}", kind, [target])
        return target

    def _pack(self, args):
        x, lengths, batch_first = args
        if isinstance(lengths, Fake):
            raise RuntimeError("pack_padded_sequence wants lengths on the host")
        with self.paused():
            if self.shapes_only:
                sizes = (lengths[:, None] > torch.arange(int(lengths.max()))).sum(0)
                data = torch.empty(int(lengths.sum()), *x.shape[2:], dtype=x.dtype, device="meta")
            else:
                data, sizes = aten._pack_padded_sequence(x.inner, lengths, batch_first)
        for _ in range(2):  # one slice and copy for each run of equal sizes; a concatenation
            self.note("_pack_padded_sequence", "kernel", [data])
        return Fake(data), sizes

    def _pack_backward(self, args):
        gradient, shape, sizes, batch_first = args
        with self.paused():
            if self.shapes_only:
                result = torch.empty(shape, dtype=gradient.dtype, device="meta")
            else:
                result = aten._pack_padded_sequence_backward(
                    gradient.inner, shape, sizes, batch_first
                )
        for _ in range(len(sizes)):  # a copy for each step
            self.note("_pack_padded_sequence_backward", "kernel", [result[:, :1]])
        return Fake(result)


def inner(x):
    return x.inner if isinstance(x, Fake) else x


def largest(name, args, kwargs, function):
    """Shapes as if every mask were True."""
    if name == "nonzero":
        return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device="meta")
    if name in ("index",):
        x, indices = args
        shape, d, n = [], 0, None
        for index in indices:
            if index is None:
                shape.append(x.shape[d])
                d += 1
            elif index.dtype == torch.bool:
                shape.append(index.numel())
                d += index.dim()
            else:
                if n is None:
                    shape += list(index.shape)
                    n = 1
                d += 1
        return torch.empty([*shape, *x.shape[d:]], dtype=x.dtype, device="meta")
    if name.startswith(("index_put", "_index_put")):
        return args[0]
    if name == "bincount":
        return torch.empty(max(1, kwargs.get("minlength", 1)), dtype=torch.long, device="meta")
    raise NotImplementedError(name)


def product_flops(name, args, result):
    a = args[0] if name in ("mm", "bmm") else args[1]
    return 2 * result.numel() * a.shape[-1]


def where():
    """The library's line that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if SOURCE in file and file != HERE and "site-packages" not in file:
            return f"{file.rpartition(SOURCE)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def forward_site(node):
    """The library's line whose gradient is computed (with torch.autograd.set_detect_anomaly)."""
    for line in reversed(node.metadata.get("traceback_", [])):
        head = line.strip().splitlines()[0]
        if SOURCE in head and "site-packages" not in head and HERE not in head:
            file, number = head.split('"')[1], head.split("line ")[1].split(",")[0]
            return f"{file.rpartition(SOURCE)[2]}:{number}"
    return ""


# The recurrent kernels of CUDA -----------------------------------------------------------------


class Functions(TorchFunctionMode):
    """torch.gru is one call of cuDNN, torch.gru_cell two products and one fused kernel."""

    def __init__(self, simulation):
        super().__init__()
        self.simulation = simulation

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "gru" and isinstance(args[0], Fake):
            return gru(self.simulation, *args, **(kwargs or {}))
        if name == "tolist" and isinstance(args[0], Fake):  # torch refuses it for subclasses
            return args[0].cpu().tolist()
        if name == "dropout" and isinstance(args[0], Fake):
            return dropout(*args, **(kwargs or {}))
        if name == "gru_cell" and isinstance(args[0], Fake):
            return gru_cell(self.simulation, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def dropout(x, p=0.5, training=True, inplace=False):
    """One kernel forward and one backward, as CUDA's `dropout` calls `native_dropout`."""
    assert not inplace
    return torch.native_dropout(x, p, True)[0] if training and 0 < p < 1 else x


def gru(simulation, x, *rest):
    """Run cuDNN's GRU; under any autocast in float16 (ATen/cudnn/AutocastRNN.cpp)."""
    if isinstance(
        rest[1], (list, tuple)
    ):  # padded: hx, weights, bias, layers, dropout, training, both, batch_first
        hx, weights, sizes = rest[0], rest[1], None
    else:
        sizes, hx, weights = rest[0], rest[1], rest[2]
    if torch.is_autocast_enabled(DEVICE.type):
        x, hx, *weights = (t.half() for t in (x, hx, *weights))
    return CudnnGRU.apply(simulation, rest, sizes, x, hx, *weights)


class CudnnGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, simulation, rest, sizes, x, hx, *weights):
        ctx.simulation, ctx.dtype = simulation, x.dtype
        packed = sizes is not None
        both = rest[7] if packed else rest[6]
        hidden, tokens = hx.shape[-1], x.numel() // x.shape[-1]
        ctx.flops = 2 * tokens * sum(w.numel() for w in weights if w.dim() == 2)
        ctx.steps = len(sizes) if packed else x.shape[1]
        with simulation.paused():
            if simulation.shapes_only:
                shape = [*x.shape[:-1], hidden * (1 + both)]
                out = torch.empty(shape, dtype=x.dtype, device="meta")
                last = torch.empty(hx.shape, dtype=x.dtype, device="meta")
                ctx.leaves = [t.inner for t in (x, hx, *weights)]
            else:
                ctx.leaves = [t.inner.float().detach().requires_grad_() for t in (x, hx, *weights)]
                with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                    a, b, *w = ctx.leaves
                    inputs = (a, sizes, b, w, *rest[3:]) if packed else (a, b, w, *rest[2:])
                    ctx.outputs = torch._VF.gru(*inputs)
                out, last = (t.detach().to(x.dtype) for t in ctx.outputs)
        simulation.note(f"cudnn gru ({ctx.steps} steps)", "gru", [out], [x, *weights], ctx.flops)
        return Fake(out), Fake(last)

    @staticmethod
    def backward(ctx, by_out, by_last):
        simulation = ctx.simulation
        with simulation.paused():
            if simulation.shapes_only:
                found = [torch.empty_like(t) for t in ctx.leaves]
            else:
                above = [t.inner.float() for t in (by_out, by_last)]
                found = torch.autograd.grad(ctx.outputs, ctx.leaves, above)
                found = [t.to(ctx.dtype) for t in found]
        simulation.note(
            f"cudnn gru backward ({ctx.steps} steps)", "gru", found, [by_out], 2 * ctx.flops
        )
        return None, None, None, *(Fake(t) for t in found)


def gru_cell(simulation, x, hx, w_ih, w_hh, b_ih, b_hh):
    # The products' weights are cast once, since autocast keeps the casts of parameters.
    linear = torch.nn.functional.linear
    return FusedCell.apply(simulation, linear(x, w_ih), linear(hx, w_hh), hx, b_ih, b_hh)


class FusedCell(torch.autograd.Function):
    @staticmethod
    def forward(ctx, simulation, *inputs):
        ctx.simulation, ctx.dtypes = simulation, [t.dtype for t in inputs]
        with simulation.paused(), torch.enable_grad():
            ctx.leaves = [t.inner.float().detach().requires_grad_() for t in inputs]
            a, b, h, p, q = ctx.leaves
            (r, z, n), (s, y, m) = (a + p).chunk(3, 1), (b + q).chunk(3, 1)
            r, z = (r + s).sigmoid(), (z + y).sigmoid()
            n = (n + r * m).tanh()
            ctx.out = n + z * (h - n)
            out = ctx.out.detach().to(ctx.dtypes[0])
        simulation.note("fused gru cell", "kernel", [out], inputs)
        return Fake(out)

    @staticmethod
    def backward(ctx, above):
        with ctx.simulation.paused():
            found = torch.autograd.grad(ctx.out, ctx.leaves, above.inner.float())
            found = [t.to(dtype) for t, dtype in zip(found, ctx.dtypes, strict=True)]
        for name in ("fused gru cell backward", "sum", "sum"):
            ctx.simulation.note(name, "kernel", found[:2], [above])
        return None, *(Fake(t) for t in found)


# Modules and totals ----------------------------------------------------------------------------


def move(module, simulation):
    """A module's parameters and buffers on the device."""
    for part in module.modules():
        for key, p in list(part._parameters.items()):
            if p is not None and not isinstance(p, Fake):
                part._parameters[key] = torch.nn.Parameter(
                    simulation.put(p), requires_grad=p.requires_grad
                )
        for key, b in list(part._buffers.items()):
            if b is not None and not isinstance(b, Fake):
                part._buffers[key] = simulation.put(b)
        if hasattr(part, "_device"):
            part._device = DEVICE
        if isinstance(part, torch.nn.RNNBase):
            part._flat_weights = [getattr(part, n) for n in part._flat_weights_names]
    return module


def total(events):
    """Launches, products' FLOPs, bytes and waits."""
    kernels = [e for e in events if e.kind in ("kernel", "product", "gru", "upload")]
    return {
        "launches": len(kernels),
        "forward": sum(not e.backward for e in kernels),
        "gflop": sum(e.flops for e in kernels) / 1e9,
        "gbytes": sum(e.bytes for e in kernels) / 1e9,
        "waits": sum(e.kind == "wait" for e in events),
    }
