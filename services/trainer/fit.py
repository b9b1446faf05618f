"""Fit the finestream network: full-softmax cross-entropy over every case of the log, in windows of event time."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.graph.state import ItemNode
from shared.models.contract import ItemTable
from shared.models.dataset import Case, Catalogue, Log, cases, items_before, windows
from shared.models.evaluation import mask_seen
from shared.models.features import ItemFeatures, item_features, user_features
from shared.models.finestream import Config, Finestream, Network


@dataclass(frozen=True)
class Options:
    epochs: int = 10
    patience: int = 2  # epochs without a better validation loss
    windows: int = 8
    batch: int = 256  # cases of one step at most
    tokens: int = 4096  # of one step at most, padding included
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    max_seconds: float = 75.0
    max_cases: int = 200_000  # the newest
    seed: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Window:
    """The catalogue as of the window's start, and cases with at least one target in it."""

    features: ItemFeatures
    id_rows: Tensor  # (N,)
    row_of: dict[str, int]
    cases: list[Case]


@dataclass(frozen=True)
class Fitted:
    model: Finestream
    epochs: int  # after which the weights were the best on validation; as asked for where there was none
    loss: float  # on validation; NaN where there was none
    seconds: float
    cut_short: bool  # time ran out before the training had ended


Report = Callable[[int, float, float], None]  # epoch, training loss, validation loss


def fit(
    log: Log, space: str, config: Config, options: Options, end: float, validate_from: float | None, report: Report
) -> Fitted:
    """Train on everything strictly before `end`, or, with `validate_from`, on what is before that, stopping early
    by the loss on the cases in between. Raises ValueError where there is nothing to learn from.
    """
    torch.manual_seed(options.seed)
    shuffle = random.Random(options.seed)  # noqa: S311  # an order of batches
    started = time.monotonic()
    train_end = end if validate_from is None else validate_from
    model = _start(items_before(log, train_end), space, config, options.device)
    prepared = prepare(log, model, cases(log, -math.inf, train_end)[-options.max_cases :], options.windows)
    if not prepared:
        raise ValueError("no interaction with an item that was known before: nothing to learn from")
    held_out = [] if validate_from is None else prepare(log, model, cases(log, validate_from, end), 1)
    network = model.network
    optimizer = torch.optim.AdamW(_groups(network, options.weight_decay), lr=options.learning_rate)
    best_loss, best_epoch, best = math.inf, 0, deepcopy(network.state_dict())
    epoch, cut_short = 0, False
    for epoch in range(1, options.epochs + 1):
        trained = _epoch(network, prepared, optimizer, options, shuffle, started)
        loss = validation_loss(network, held_out, options) if held_out else math.nan
        report(epoch, trained, loss)
        if loss < best_loss:
            best_loss, best_epoch, best = loss, epoch, deepcopy(network.state_dict())
        if held_out and epoch - best_epoch >= options.patience:
            break
        if _out_of_time(started, options):
            cut_short = epoch < options.epochs
            break
    if held_out and best_epoch:
        network.load_state_dict(best)
    chosen = best_epoch if held_out and best_epoch else epoch
    return Fitted(model, chosen, best_loss if held_out else math.nan, time.monotonic() - started, cut_short)


def prepare(log: Log, model: Finestream, found: Sequence[Case], count: int) -> list[Window]:
    """Cases in windows, each with its own view of the catalogue; cases whose targets are all unknown are left out."""
    catalogue, out = Catalogue(log), []
    config = model.config
    for stretch in windows(found, count):
        catalogue.advance(stretch[0].ts)
        nodes = catalogue.nodes()
        row_of = {node.item_id: row for row, node in enumerate(nodes)}
        kept = [replace(case, targets=tuple(t for t in case.targets if t in row_of)) for case in stretch]
        kept = [case for case in kept if case.targets]
        if kept:
            features = item_features(nodes, config.schema, config.half_life_days, model.device)
            out.append(Window(features, model.id_rows(list(row_of)), row_of, kept))
    return out


def batch_loss(network: Network, window: Window, batch: Sequence[Case], device: str) -> Tensor:
    """Mean over the batch's targets of -log p(target | user, catalogue as of the window), items seen masked."""
    table = network.items(window.features, window.id_rows)
    logits = batch_logits(network, table, window, batch, device)
    logits = mask_seen(logits, batch, window.row_of)
    at = [(b, window.row_of[target]) for b, case in enumerate(batch) for target in case.targets]
    b, n = torch.tensor(at, device=device).unbind(1)
    return -F.log_softmax(logits.float(), 1)[b, n].mean()


def batch_logits(
    network: Network, table: ItemTable, window: Window, batch: Sequence[Case], device: str
) -> Tensor:  # (B, N)
    config = network.config
    features = user_features([c.user for c in batch], window.row_of, config.schema, config.longest, device)
    users = network.users(features, table.vectors, table.extra["fine"])
    return users @ table.vectors.T + table.bias


@torch.no_grad()
def validation_loss(network: Network, held_out: Sequence[Window], options: Options) -> float:
    network.eval()
    total, n = 0.0, 0
    for window in held_out:
        for start in range(0, len(window.cases), options.batch):
            batch = window.cases[start : start + options.batch]
            targets = sum(len(case.targets) for case in batch)
            total += float(batch_loss(network, window, batch, options.device)) * targets
            n += targets
    return total / max(n, 1)


def _start(nodes: Sequence[ItemNode], space: str, config: Config, device: str) -> Finestream:
    network = Network(config, len(nodes))
    network.fit_content(item_features(nodes, config.schema, config.half_life_days, "cpu").content)
    return Finestream(space, config, [node.item_id for node in nodes], network, device)


def _epoch(
    network: Network, prepared: Sequence[Window], optimizer: torch.optim.Optimizer, options: Options,
    shuffle: random.Random, started: float,
) -> float:  # fmt: skip
    network.train()
    losses = []
    for window, batch in _batches(prepared, options, shuffle):
        with torch.autocast("cuda", torch.bfloat16, enabled=options.device.startswith("cuda")):
            loss = batch_loss(network, window, batch, options.device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if _out_of_time(started, options):
            break
    return sum(losses) / len(losses)


def _batches(
    prepared: Sequence[Window], options: Options, shuffle: random.Random
) -> Iterator[tuple[Window, list[Case]]]:
    """Histories of like length together, so that little is padded; which ones, and in what order, by chance."""
    out: list[tuple[Window, list[Case]]] = []
    for window in prepared:
        order = shuffle.sample(window.cases, len(window.cases))
        order.sort(key=_length)
        while order:
            count = min(options.batch, max(1, options.tokens // max(_length(order[-1]), 1)))
            out.append((window, order[-count:]))
            del order[-count:]
    shuffle.shuffle(out)
    yield from out


def _length(case: Case) -> int:
    return len(case.user.interactions)


def _groups(network: Network, weight_decay: float) -> list[dict[str, object]]:
    decayed = [p for name, p in network.named_parameters() if p.ndim > 1]
    others = [p for name, p in network.named_parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _out_of_time(started: float, options: Options) -> bool:
    return time.monotonic() - started > options.max_seconds
