import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.models.distillation import Distillation, Neighbours, find_neighbours, semantic_users, tail_users
from shared.models.sequences import Sequences

USERS, WIDTH = 6, 4
NONE = np.zeros(0, np.int64)


class Student(nn.Module):
    """A user is a row of a table, and dropout."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(USERS, WIDTH))
        self.drop = nn.Dropout(0.5)
        self.register_buffer("constant", torch.ones(3))

    def forward(self, users: Tensor) -> Tensor:
        return self.drop(self.table[users])  # type: ignore[no-any-return]


class Encoder:
    """What is asked of the teacher."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, teacher: nn.Module, users: Tensor) -> Tensor:
        self.asked.append(users)
        return teacher(users)  # type: ignore[no-any-return]


def ring(k: int = 2) -> Neighbours:
    """Everybody's neighbours are the k next ones; users 4 and 5 learn from nobody."""
    rows = (torch.arange(USERS)[:, None] + torch.arange(1, k + 1)) % USERS
    weight = torch.linspace(1.0, 0.5, k).repeat(USERS, 1)
    return Neighbours(rows, weight, torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0, 0.0]))


def distillation(student: nn.Module, encode: Encoder, ema: float = 0.9, refresh: int = 0) -> Distillation:
    return Distillation(student, encode, WIDTH, ring(), ema, refresh).train()


def sequences(histories: list[list[int]], times: list[list[float]] | None = None) -> Sequences:
    flat = [item for history in histories for item in history]
    at = [ts for of_user in times for ts in of_user] if times else list(range(len(flat)))
    offsets = np.cumsum([0, *(len(history) for history in histories)])
    return Sequences(
        [f"u{u}" for u in range(len(histories))], offsets.astype(np.int64), np.array(flat, np.int64),
        np.array(at, np.float64), NONE, NONE,
    )  # fmt: skip


def test_the_teacher_gets_no_gradient_and_the_student_does() -> None:
    student = Student()
    found = distillation(student, Encoder())
    list(found.epoch([0], student))
    users = torch.arange(4)
    found(student(users), users).backward()
    assert student.table.grad is not None
    assert student.table.grad[:4].abs().sum() > 0
    assert [p for p in found.parameters() if p.requires_grad or p.grad is not None] == []
    assert not found.target(users).requires_grad


@pytest.mark.parametrize("refresh", [0, 1, 3])
def test_a_user_is_pulled_towards_those_like_them_and_one_with_a_long_history_is_not(refresh: int) -> None:
    student = Student()
    found = distillation(student, Encoder(), refresh=refresh)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.3)
    before = student.table.detach().clone()
    goal = (before[1] + 0.5 * before[2]) / 1.5
    for _ in found.epoch(range(30), student):
        optimizer.zero_grad()
        users = torch.tensor([0, 4, 5])  # nobody else learns, so the goal stays where it is
        found(student.table[users], users).backward()
        optimizer.step()
    assert (student.table[0] - goal).norm() < 0.3 * (before[0] - goal).norm()
    assert torch.equal(student.table[4:].detach(), before[4:])


def test_half_the_strength_is_half_the_loss() -> None:
    student = Student()
    neighbours = Neighbours(
        torch.tensor([[2], [2]] + [[-1]] * 4), torch.ones(6, 1), torch.tensor([1.0, 0.5] + [0.0] * 4)
    )
    found = Distillation(student, Encoder(), WIDTH, neighbours).train()
    list(found.epoch([0], student))
    u = torch.zeros(1, WIDTH)
    assert found(u, torch.tensor([0])) == pytest.approx(2 * float(found(u, torch.tensor([1]))))
    assert found(u, torch.tensor([0])) == pytest.approx(float((student.table[2] ** 2).mean().detach()))


@pytest.mark.parametrize("refresh", [1, 0])
def test_never_more_than_the_neighbours_are_encoded(refresh: int) -> None:
    student, encode = Student(), Encoder()
    found = distillation(student, encode, refresh=refresh)
    list(found.epoch([0], student))
    users = torch.tensor([0, 3, 5])
    found(student(users), users)
    asked = torch.cat(encode.asked).tolist()
    if refresh == 1:
        assert sorted(asked) == [1, 2, 4, 5]  # of 0 and of 3, each once; 5 learns from nobody
    else:
        assert sorted(asked) == [1, 2, 3, 4, 5]  # 0 is a neighbour of those who learn nothing only


def test_vectors_are_made_anew_when_they_should_be() -> None:
    for refresh, expected in ((0, 2), (1, 0), (2, 3), (5, 2)):
        student, encode = Student(), Encoder()
        found = distillation(student, encode, refresh=refresh)
        for _ in range(2):
            list(found.epoch(range(3), student))
        assert len(encode.asked) == expected, f"refresh {refresh}"


def test_the_teacher_follows_slowly_and_without_a_mean_at_once() -> None:
    for ema in (0.9, 0.0):
        student = Student()
        found = distillation(student, Encoder(), ema)
        list(found.epoch(range(100), student))  # its first steps are shorter
        with torch.no_grad():
            student.table += 1.0
        before = found.teacher.get_parameter("table").clone()
        found.advance(student)
        moved = float((found.teacher.get_parameter("table") - before).mean())
        assert moved == pytest.approx(1.0 if ema == 0.0 else 0.1, abs=1e-4)


def test_the_teacher_has_no_dropout_while_the_student_has() -> None:
    student = Student()
    found = nn.ModuleDict({"model": student, "distillation": distillation(student, Encoder())})
    for mode in (True, False, True):
        found.train(mode)
        assert student.training == mode
        teacher = found["distillation"].teacher
        assert not [module for module in teacher.modules() if module.training]


def test_data_is_shared_and_weights_are_not() -> None:
    student = Student()
    teacher = distillation(student, Encoder()).teacher
    assert teacher.get_buffer("constant") is student.constant
    assert teacher.get_parameter("table") is not student.table


def test_a_state_dict_holds_all_that_the_next_steps_depend_on() -> None:
    def steps(student: Student, found: Distillation, count: int) -> list[float]:
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        losses = []
        for _ in found.epoch(range(count), student):
            optimizer.zero_grad()
            loss = found(student.table[:4], torch.arange(4))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    for refresh in (0, 1, 4):
        student = Student()
        found = distillation(student, Encoder(), refresh=refresh)
        both = nn.ModuleDict({"model": student, "distillation": found})
        steps(student, found, 6)
        held = {name: tensor.clone() for name, tensor in both.state_dict().items()}
        expected = steps(student, found, 6)
        other = Student()
        again = distillation(other, Encoder(), refresh=refresh)
        nn.ModuleDict({"model": other, "distillation": again}).load_state_dict(held)
        assert steps(other, again, 6) == expected, f"refresh {refresh}"


def test_who_has_no_neighbour_costs_nothing_and_harms_nobody() -> None:
    def similar(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[1, 2], [-1, -1], [1, -1]]), np.array([[0.8, 0.4], [0.0, 0.0], [-0.5, 0.0]])

    found = find_neighbours(similar, np.zeros((3, 2), np.float32), 2, np.array([True, True, True]), weighted=True)
    assert found.strength.tolist() == pytest.approx([0.6, 0.0, 0.0])  # one that is unlike teaches nothing either
    alike = find_neighbours(similar, np.zeros((3, 2), np.float32), 2, np.array([True, True, False]), weighted=False)
    assert alike.strength.tolist() == [1.0, 0.0, 0.0]
    assert alike.weight.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    student = Student()
    for refresh in (0, 1):
        neighbours = Neighbours(torch.full((6, 2), -1), torch.zeros(6, 2), torch.zeros(6))
        none = Distillation(student, Encoder(), WIDTH, neighbours, refresh=refresh).train()
        list(none.epoch([0], student))
        assert float(none(student.table, torch.arange(6)).detach()) == 0.0


def test_a_user_is_the_mean_of_the_texts_met_and_of_late_ones_more_with_a_half_life() -> None:
    content = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = sequences([[0, 1, 2], [2], [1]], [[0.0, 86_400.0, 90_000.0], [5.0], [7.0]])
    assert np.allclose(semantic_users(content, found), [[0.5, 0.5], [0.0, 0.0], [0.0, 1.0]])
    late = semantic_users(content, found, half_life_days=1.0)
    assert np.allclose(late, [[1 / 3, 2 / 3], [0.0, 0.0], [0.0, 1.0]], atol=1e-6)


def test_a_log_of_any_length_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    content = torch.from_numpy(rng.normal(size=(9, 3)).astype(np.float32))
    found = sequences([rng.integers(0, 9, n).tolist() for n in (5, 1, 17, 3)])
    whole = semantic_users(content, found)
    monkeypatch.setattr("shared.models.distillation.EVENTS_AT_ONCE", 4)
    assert np.allclose(semantic_users(content, found), whole, atol=1e-6)
    assert np.allclose(whole[2], content[found.items[6:23]].mean(0), atol=1e-6)


@given(lengths=st.lists(st.integers(1, 9), max_size=30), share=st.floats(0.05, 0.95))
def test_tail_users_have_the_shortest_histories_and_are_not_more_than_asked(lengths: list[int], share: float) -> None:
    tail = tail_users(sequences([[0] * length for length in lengths]), share)
    given_ = np.array(lengths)
    if not len(given_):
        assert tail.shape == (0,)
        return
    assert tail[given_ == given_.min()].all()
    if (~tail).any():
        assert given_[tail].max() < given_[~tail].min()
    shortest_alone = (given_ == given_.min()).sum()
    assert tail.sum() <= max(share * len(given_) + 1e-6, shortest_alone)
    following = given_[~tail].min() if (~tail).any() else None
    if following is not None:
        assert tail.sum() + (given_ == following).sum() > share * len(given_)
