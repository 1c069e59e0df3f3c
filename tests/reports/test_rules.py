"""What the thresholds are called: a promise, where there is one, and how many images it needs."""

import pytest

from cae_jax.reports import rules


def point(rule, source, n, percent=None, **more):
    return {"rule": rule, "source": source, "n": n, "percent": percent, "threshold": 1.0, **more}


@pytest.mark.parametrize(
    ("n", "rate", "source", "wanted"),
    [
        (19, 0.05, "validation good", "false alarms at most 5 %: needs 19 good images, has 19"),
        (30, 0.05, "out-of-fold good", "false alarms about 5 %: needs 19 good images, has 30"),
        (
            *(18, 0.05, "validation good"),
            "false alarms at most 5.26 %, the strictest that 18 good images allow: no finite "
            "threshold can promise 5 %, which needs 19",
        ),
        (
            *(1, 0.001, "out-of-fold good"),
            "false alarms about 50 %, the strictest that 1 good image allows: no finite "
            "threshold can promise 0.1 %, which needs 999",
        ),
    ],
)
def test_a_rate_that_was_asked_for(n, rate, source, wanted):
    asked = point("false_alarms", source, n, rate=rate)
    assert rules.promise(asked) == rules.name(asked) == wanted
    quantile = point("ceil", source, n, 90)
    assert rules.shown({"operating_points": [quantile, asked]}) is asked
    assert rules.shown({"operating_points": [quantile]}) is quantile


def test_only_what_is_held_out_promises():
    names = [
        rules.name(point(rule, source, 30, 90))
        for rule in ("ceil", "conformal")
        for source in ("validation good", "out-of-fold good", "test good")
    ]
    assert names[:5] == [
        "quantile, 90 % of validation good",
        "quantile, 90 % of out-of-fold good",
        "thesis, 90 % of test good",
        "conformal, false alarms at most 10 %",
        "conformal, false alarms about 10 %",
    ]


def test_a_damaged_point_has_a_name():
    for more in ({}, {"rate": "x"}, {"rate": 0.7}, {"rate": 0.0}):
        assert rules.name(point("false_alarms", "validation good", 3, **more)) == "false_alarms"
    assert rules.name(point("false_alarms", "validation good", None, rate=0.1)) == "false_alarms"
