"""The stages of a compression: choose, take out, adapt the BatchNorms, fine-tune, measure; each is kept as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.compress.apply.apply import apply, prunable
from dropfold.compress.methods.ablation import ablation
from dropfold.compress.methods.collaborative.choose import collaborative, paths_of
from dropfold.compress.methods.collaborative.layers import Energy, energies, layers_of
from dropfold.compress.methods.criteria import CRITERIA, random
from dropfold.compress.methods.taylor import taylor
from dropfold.compress.methods.uniform import uniform
from dropfold.compress.plan.channels import plan_channels
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan
from dropfold.compress.run.record import FILE, Request, begin, example_of, figures, keeping, show_again
from dropfold.compress.run.target import Keep, first_within, ledger_of, say_what_stays
from dropfold.compress.run.training import train_and_finish
from dropfold.data_scripts.work import atomic
from dropfold.models import reestimate_batch_norm
from dropfold.train.scoring.objective import loss_function, restrict_to_family
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.scene_prediction import progress
from dropfold.train.tasks.trained import Trained

CHOICE = "choice.json"  # for a loop of the user's own: `Choice.load`, `resize`
ABLATED = 2  # batches on which each channel is masked in turn
COLLABORATIVE: dict[str, Energy] = {"cc": "fisher", "cc-released": "mean"}


def take_channels_out(request: Request) -> dict[str, Any]:
    """Make the smaller run in `out`, or go on with it, and return what its compression.json holds.

    Raises:
        ValueError: a network without channels to take, a target out of reach, or a folder of other options.
    """
    trained, out = request.trained, request.out
    config = request.config(max(1, trained.config.epochs // 5), trained.config.lr / 5)
    asked = request.words(config, target=list(request.target))
    found = begin(out, asked, trained)
    if "cost" in found:
        return show_again(out, found)
    example = example_of(trained)
    plan = plan_of(trained, example)
    if "channels" not in found:
        choice = choose(request, plan, request.method, config.seed, example, keeping(out, found))
        found |= {"channels": choice.channels, "ranks": choice.ranks}
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    small, choice = apply(plan, Choice(found["channels"], found["ranks"]), *example)
    if "scores" not in found:
        atomic.write_bytes(out / CHOICE, choice.to_json().encode())
        found["scores"] = _scores_before(trained, small)
        checkpoint.save_json(out / FILE, found)
    else:
        adapt(trained, small)
    config = replace(config, sizes=choice.sizes)
    return train_and_finish(trained, found, config, "fine-tuned", example, weights=small.state_dict())


def plan_of(trained: Trained, example: Sequence[Tensor]) -> Plan:
    """The plan of a run's network, without what its own code knows by heart; ValueError if nothing is left of it."""
    plan = plan_channels(trained.network, *example)
    if not hasattr(trained.network, "wiring"):
        plan = prunable(plan, *example)
    if not plan.groups:
        raise ValueError(
            f"no channels can be taken out of {trained.run}: {'; '.join(str(plan).splitlines())}."
        )
    return plan


def choose(
    request: Request, plan: Plan, method: str, seed: int, example: Sequence[Tensor], keep: Keep
) -> Choice:
    """The choice of a method that meets the target; `keep` has what is timed for it."""
    trained, (what, part) = request.trained, request.target
    if what == "latency":
        say_what_stays(plan, part, example, keep)
    if method in COLLABORATIVE:
        ledger = ledger_of(plan, what, example, keep)
        energy = energies(plan, losses_of(trained), COLLABORATIVE[method])
        with progress("layers", len(layers_of(plan, energy))) as advance:
            paths = paths_of(plan, energy, advance)
        choices = collaborative(paths, ledger, released=method == "cc-released")
    else:
        scores = _scores(trained, plan, method, seed)
        choices = uniform(plan, lambda _, group: scores[group.name])
    return first_within(plan, choices, what, part, example, keep)


def _scores(trained: Trained, plan: Plan, method: str, seed: int) -> dict[str, Tensor]:
    """How much each channel of each group matters."""
    if method == "taylor":
        return taylor(plan, losses_of(trained))
    if method == "ablation":
        with progress("channels", sum(group.size for group in plan.groups)) as advance:
            return ablation(plan, islice(losses_of(trained), ABLATED), advance)
    criterion = partial(random, seed=seed) if method == "random" else CRITERIA[method]
    return {group.name: criterion(plan, group) for group in plan.groups}


def losses_of(trained: Trained) -> Iterator[Callable[[nn.Module], Tensor]]:
    """The loss of each training batch of an epoch, as a function of the network."""
    data, config = trained.data, trained.config
    device = next(trained.network.parameters()).device
    weight, family = (None if v is None else v.to(device) for v in (data.weight, data.family))

    def loss(inputs: Sequence[Tensor], label: Tensor, network: nn.Module) -> Tensor:
        logits, label = network(*(value.to(device) for value in inputs)), label.to(device)
        if family is not None:
            logits = restrict_to_family(logits, family, family[label])
        return loss_function(logits, label, config, weight)

    for inputs, label in trained.task.batches(data.train, config, 0):
        yield partial(loss, inputs, label)


def _scores_before(trained: Trained, small: nn.Module) -> dict[str, dict[str, float]]:
    """Figures on the test split: of the original, and of the small network before and after its BatchNorms are adapted."""
    scores = {"original": figures(trained, trained.network), "channels taken out": figures(trained, small)}
    adapt(trained, small)
    return scores | {"BatchNorm adapted": figures(trained, small)}


def adapt(trained: Trained, small: nn.Module) -> None:
    """Measure the statistics of the BatchNorms of a network on an epoch of training batches."""
    device = next(small.parameters()).device
    batches = trained.task.batches(trained.data.train, trained.config, 0)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)  # of networks that draw in evaluation: the same whenever it is done
        reestimate_batch_norm(
            small, (inputs for inputs, _ in batches), lambda x: small(*(v.to(device) for v in x))
        )
