"""Error budgets: the error of a definition in a low precision, its roundings drawn at random.

One pass of the definition in a low precision is one draw of its error. A result of few numbers may
come out nearly exact by chance, and a kernel would fail against that. So the definition runs
several times in float64, and every operation's result is rounded at random: up or down to one of
the two neighbours in the low precision. The nearer one is the likelier, so the mean is the number
itself. A number that the low precision holds stays as it is.

Two errors happen inside of an operation, in float32. A product adds n terms one by one: it rounds n
partial sums, whose squares are half the last one's on average. A weight is the exponential of a
score less a logarithm. The errors of these two are relative errors of the weight.

The mean error is what such roundings cost on these inputs. Rounding at random has twice the
variance of rounding to the nearest. The kernels round less often than the definition: rotated rows
once, not five times; scores never; the scores' gradient once. So a kernel's error is expected at
about half the mean. It is one draw as well, so that six standard deviations are allowed on top.
They are much for few numbers, and little for many, where all draws are alike.

Two roundings count with their largest value, half a unit of the result each. The first is the
result's own: no draw moves a result that happens to be close to a number of the low precision. A
kernel that errs slightly before may still land on the next number. The second belongs to numbers
that the definition does not have: weights before they are divided by their sum, LoRRA's values and
their gradients. These are r numbers a key and head, and all D numbers made of them err together.

On small random calls the largest error was 0.43 of the budget for LoRRA attention (1,602 calls, of
a torch rewrite of the kernel's arithmetic) and 0.52 for routed attention (392 interpreted calls).
Of these, 710 and 188 were drawn after the last change of this form: 0.39 and 0.52.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DRAWS = 8
DEVIATIONS = 6
ROUNDINGS = 2
FLOAT32 = torch.finfo(torch.float32).eps / 2


class RandomRounding(TorchDispatchMode):
    """Rounds the result of every float64 operation to `dtype`, up or down at random."""

    def __init__(self, dtype, seed):
        super().__init__()
        self.dtype, self.seed, self.generators = dtype, seed, {}

    def draw(self, sizes, device, function):
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return function(
            sizes, generator=self.generators[device], dtype=torch.float64, device=device
        )

    def rounded(self, result):
        if not isinstance(result, torch.Tensor) or result.dtype != torch.float64:
            return result
        limits = torch.finfo(self.dtype)
        _, exponent = torch.frexp(result)
        step = torch.ldexp(torch.full_like(result, limits.eps), exponent - 1)
        step = step.clamp(min=limits.smallest_normal * limits.eps)
        steps = (result / step + self.draw(result.shape, result.device, torch.rand)).floor()
        # Numbers too large for the low precision overflow.
        return (steps * step).to(self.dtype).double()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if any(one.alias_info is not None for one in operation._schema.returns):
            # A view of numbers that are rounded already.
            assert not operation._schema.is_mutable, f"{operation} writes into its argument"
            return result
        if operation in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            left, right = args
            spread = (left.square() @ right.square() * (left.shape[-1] / 2)).sqrt()
            result = result + FLOAT32 * spread * self.normal(result)
        elif operation is torch.ops.aten._softmax.default:
            scores, dim, _ = args
            total = scores.logsumexp(dim, keepdim=True)
            exponents = scores * self.normal(scores), total * self.normal(total)
            # Weights of queries that see no key are 0 or NaN, and stay so.
            wrong = sum(one.masked_fill(one.isinf(), 0.0) for one in exponents)
            result = result * (1 + FLOAT32 * wrong)
        return tree_map(self.rounded, result)

    def normal(self, like):
        return self.draw(like.shape, like.device, torch.randn)


def random_losses(results, exact, dtype, draws=DRAWS):
    """Errors of several draws, by name: `results()` in float64 against `exact`, both by name."""
    errors = []
    for seed in range(draws):
        with RandomRounding(dtype, seed):
            found = results()
        errors.append({name: float((found[name] - exact[name]).norm()) for name in exact})
    return {name: torch.tensor([one[name] for one in errors]) for name in exact}


def budget(losses, exact, dtype):
    """The largest allowed norm of a kernel's result minus `exact`."""
    once = torch.finfo(dtype).eps / 2 * float(exact.norm())
    return float(losses.mean() + DEVIATIONS * losses.std()) + ROUNDINGS * once
