import pytest

from ltpl.masks.schedule import AtEpochs, Cubic, Every, PerRound, Schedule, as_schedule


def due(schedule, until=20):
    return [epoch for epoch in range(until) if schedule.due(epoch)]


def test_a_number_is_one_shot_and_a_list_is_each_of_its_epochs():
    assert due(as_schedule(3)) == [3]
    assert due(as_schedule(0)) == [0]
    assert due(as_schedule([7, 2])) == [2, 7]


def test_a_schedule_is_taken_as_it_is():
    schedule = Every(2)
    assert as_schedule(schedule) is schedule


def test_every_n_epochs_from_first_to_last():
    assert due(Every(5)) == [5, 10, 15]
    assert due(Every(5, first=0)) == [0, 5, 10, 15]
    assert due(Every(4, first=2, last=11)) == [2, 6, 10]
    assert due(Every(4, first=2, last=10)) == [2, 6, 10]


def test_cubic_prunes_after_first_and_arrives_at_last():
    assert due(Cubic(first=2, last=9, every=3)) == [5, 8, 9]
    assert due(Cubic(first=0, last=4)) == [1, 2, 3, 4]


def test_cubic_follows_zhu_and_gupta():
    first, last, final = 3, 11, 0.9
    schedule = Cubic(first=first, last=last)
    for epoch in range(first, last + 1):
        sparsity = final + (0 - final) * (1 - (epoch - first) / (last - first)) ** 3
        assert final * schedule.progress(epoch) == pytest.approx(sparsity)
    assert schedule.progress(first) == 0
    assert schedule.progress(last) == 1


def test_per_round_waits_for_the_end_of_training():
    schedule = PerRound()
    assert due(schedule) == []
    assert schedule.due(20, ended=True)


def test_other_schedules_do_not_prune_again_when_training_ends():
    for schedule in (AtEpochs([3]), Every(4), Cubic(0, 3)):
        assert not schedule.due(5, ended=True)


@pytest.mark.parametrize("schedule", [AtEpochs([3]), Every(4), PerRound()])
def test_only_gradual_schedules_stop_on_the_way(schedule):
    assert schedule.progress(3) is None


def test_a_schedule_must_answer_when():
    with pytest.raises(NotImplementedError):
        Schedule().due(1)


@pytest.mark.parametrize("epochs", [[], [-1], [3, 3], [2, -5, 9]])
def test_impossible_epochs_are_refused_with_what_was_given(epochs):
    with pytest.raises(ValueError, match=r"epochs=\[") as error:
        as_schedule(epochs)
    assert str(epochs) in str(error.value)


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda: Every(0), "n=0"),
        (lambda: Every(2, first=-1), "first=-1"),
        (lambda: Every(2, first=6, last=5), "last=5"),
        (lambda: Cubic(5, 5), "last=5"),
        (lambda: Cubic(-1, 5), "first=-1"),
        (lambda: Cubic(0, 5, every=0), "every=0"),
    ],
)
def test_impossible_distances_are_refused_with_what_was_given(make, given):
    with pytest.raises(ValueError, match=given):
        make()
