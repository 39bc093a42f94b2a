from synthgen_evaluate.analysis.significance import LEVEL, pairs_needed, smallest_p


def test_six_blocks_are_the_fewest_that_reach_five_percent() -> None:
    assert pairs_needed() == 6
    assert [smallest_p(n) <= LEVEL for n in (1, 4, 5, 6)] == [False, False, False, True]
    assert pairs_needed(LEVEL / 5) == 8
    assert smallest_p(8) <= LEVEL / 5 < smallest_p(7)
