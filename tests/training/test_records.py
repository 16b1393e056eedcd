"""Which records of a run are those of its final evaluation."""

from typing import cast

from alexnet_jax.records import Record, final_records


def make_record(step: int, **fields: object) -> Record:
    """Return a record of a step."""
    return cast(Record, dict(step=step, epoch=step / 20, loss=1.0, count=8, **fields))


def test_final_records_are_those_of_the_last_step() -> None:
    """Catches: the final records of a former last step returned for a run that was continued, also
    before it is evaluated again."""
    former = [make_record(20, split="train"), make_record(20, split="test", views="ten")]
    continued = [*former, make_record(40, split="train")]
    final = {views: make_record(40, split="test", views=views) for views in ("center", "ten")}
    assert final_records(former) == {"ten": former[1]}
    assert final_records(continued) == {}
    assert final_records([*continued, *final.values()]) == final
    assert final_records([]) == {}
