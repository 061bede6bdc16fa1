import pytest

from ltpl.tickets import Step


@pytest.mark.parametrize("text", ["10ep", "500it", "2ep50it", "0ep", "0it"])
def test_a_step_reads_as_it_is_written(text: str) -> None:
    assert str(Step.parse(text)) == text


@pytest.mark.parametrize("text", ["", "10", "ep", "5it2ep", "-1ep", "2 ep", "1.5ep"])
def test_anything_else_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="write 10ep, 500it or 2ep50it"):
        Step.parse(text)


def test_only_nothing_trained_is_the_start() -> None:
    assert Step.parse("0ep").is_start
    assert Step.parse("0it").is_start
    assert not Step.parse("0ep1it").is_start
