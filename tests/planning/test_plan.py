"""The arithmetic of a plan, on measurements made up so that the answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.errors import BudgetError, ConfigError
from foveate.planning import measure
from foveate.planning.fingerprint import Fingerprint
from foveate.planning.measurement import Measurement, Try
from foveate.planning.plan import Line, Plan
from foveate.planning.planner import hold_to_budget
from foveate.planning.reckon import END_SECONDS, batch_seconds, peak_bytes, total_seconds
from foveate.planning.settle import settle
from foveate.planning.sizes import KEPT_FREE, QUEUE_SHARE

MIB = 1024**2
FOUND = Fingerprint(1000, 100, (300, 400), (600, 800), {"jpg": 1.0}, 50_000.0)
BASE, EACH = 800 * MIB, 50 * MIB
"""Memory without a batch, and of each sample in one."""


def tried(size: int, waits: float = 0.0, slow: float = 0.0) -> Try:
    seconds = slow + 0.1 * size
    return Try(
        size,
        BASE + size * EACH,
        BASE + size * EACH,
        None,
        {"frozen": [seconds / 5] * 5, "fine_tune": [seconds] * 5},
        {"frozen": waits, "fine_tune": waits},
        0.02,
    )


def measured(*tries: Try, **others: Any) -> Measurement:
    values: dict[str, Any] = {
        "backend": "tensorflow",
        "devices": ["cpu"],
        "image_size": (224, 224),
        "stages": [("frozen", 10), ("fine_tune", 5)],
        "base_bytes": BASE,
        "startup_seconds": 10.0,
        "rows": {"train": 800, "validation": 100, "test": 100},
        "judged": 100,
        "epoch_samples": 800,
        "weight_bytes": 13 * MIB,
        "tries": list(tries),
        "limit": 2**62,
    }
    return Measurement(**{**values, **others})


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(sections)


USUAL = measured(tried(1), tried(4), tried(32))


def test_a_little_more_memory_is_not_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    limits: list[int] = []

    def try_out(manifest: Any, config: RunConfig, sizes: list[int], limit: int, _: float) -> Any:
        limits.append(limit)
        # As many as the first figures let hope for.
        return measured(tried(1), tried(16 if limit < 1300 * MIB else 32), limit=limit)

    monkeypatch.setattr(measure, "_try_out", try_out)
    data: Any = SimpleNamespace(
        digest=lambda: "digest", num_samples=1, has_masks=False,
        image_places=lambda rows: [str(tmp_path)],
    )  # fmt: skip
    for limit in (1200, 1201, 1100, 1300, 9000):
        measure.measure(data, config(), limit * MIB)
    assert limits == [1200 * MIB, 1300 * MIB]


def test_what_failed_is_not_tried_again_for_a_little_more_memory() -> None:
    found = measured(tried(1), tried(16), limit=9000 * MIB, too_large=32)
    assert measure._holds_at(9001 * MIB, found, [1, 2, 4, 8, 16, 32])
    assert not measure._holds_at(9001 * MIB, replace(found, too_large=None), [1, 2, 4, 8, 16, 32])


@pytest.mark.parametrize(("most", "sizes"), [(0.5, [1, 32]), (0.0, [1])])
def test_a_second_size_is_tried_where_time_is_short(
    most: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a plan would know of batches of one alone; a third would take too long."""
    asked = []
    about = {name: value for name, value in vars(USUAL).items() if name not in ("tries", "limit")}

    def ask(folder: Path, config: RunConfig, size: int, **ways: Any) -> Any:
        asked.append(size)
        return {**about, "others": [], "has_bfloat16": False}, tried(size)

    monkeypatch.setattr(measure, "_ask", ask)
    monkeypatch.setattr(measure, "_SHARE_OF_TIME", 0.0)
    monkeypatch.setattr(measure, "_MOST_OF_TIME", most)
    data: Any = SimpleNamespace(save=lambda path: None)
    stated = config(budget={"time": 60})
    measure._try_out(data, stated, [1, 2, 4, 8, 16, 32], 8192 * MIB, 1.0)
    assert asked == sizes


def test_a_size_whose_trial_failed_is_not_planned() -> None:
    found = measured(tried(1), tried(4))
    assert settle(config(), FOUND, found, 9000 * MIB).batch_size > 8
    failed = replace(found, too_large=8)
    assert settle(config(), FOUND, failed, 9000 * MIB).batch_size == 4


class TestPrecision:
    """Another precision is taken where it was measured to be faster, and only there."""

    @pytest.mark.parametrize(("share", "chosen"), [(0.7, "mixed_bfloat16"), (0.97, "float32")])
    def test_the_faster_one(self, share: float, chosen: str) -> None:
        base = USUAL.tries[1]
        other = replace(
            base,
            precision="mixed_bfloat16",
            stage_seconds={
                name: [share * second for second in seconds]
                for name, seconds in base.stage_seconds.items()
            },
        )
        plan = settle(config(), FOUND, replace(USUAL, others=[other]), 3000 * MIB)
        usual = settle(config(), FOUND, USUAL, 3000 * MIB)
        assert plan.precision == chosen
        assert plan.apply(config()).recipe.precision == chosen
        assert plan.peak_bytes == usual.peak_bytes
        spent, without = plan.epoch_seconds["fine_tune"], usual.epoch_seconds["fine_tune"]
        judging = 100 * base.validation_seconds
        expected = share if chosen == "mixed_bfloat16" else 1.0
        assert spent - judging == pytest.approx(expected * (without - judging))
        (line,) = (line for line in plan.ledger if line.name == "precision")
        assert f"{1 / share:.2f} times as fast" in line.reason

    def test_a_stated_one_is_kept(self) -> None:
        stated = config(recipe={"precision": "mixed_float16"})
        tries = [replace(one, precision="mixed_float16") for one in USUAL.tries]
        plan = settle(stated, FOUND, replace(USUAL, tries=tries), 3000 * MIB)
        assert plan.precision == "mixed_float16"


class TestUnfrozen:
    """Fewer layers are trained where that was tried, since time is short, and is faster."""

    def found(self, share: float) -> Measurement:
        """As with batches of 32, of which training fewer layers takes these shares."""
        base = USUAL.tries[-1]
        tuned = [share * second for second in base.stage_seconds["fine_tune"]]
        other = replace(
            base,
            unfreeze=0.6,
            stage_seconds={**base.stage_seconds, "fine_tune": tuned},
            peak_bytes=BASE + round(share * (base.peak_bytes - BASE)),
        )
        return replace(USUAL, others=[other])

    @pytest.mark.parametrize(("share", "unfrozen"), [(0.5, 0.6), (0.97, 1.0)])
    def test_the_faster_way(self, share: float, unfrozen: float) -> None:
        plan = settle(config(), FOUND, self.found(share), 4096 * MIB)
        assert plan.unfreeze == plan.apply(config()).recipe.unfreeze == unfrozen
        less = share if unfrozen < 1 else 1.0
        assert plan.peak_bytes == BASE + round(less * 32 * EACH)
        judging = 100 * USUAL.tries[-1].validation_seconds
        assert plan.epoch_seconds["fine_tune"] == pytest.approx(less * 800 * 0.1 + judging)
        (line,) = (line for line in plan.ledger if line.name == "fine_tune, unfrozen")
        assert line.source == "measured"
        assert f"{1 / share:.2f} times as fast" in line.reason

    def test_what_takes_less_memory_may_be_what_fits(self) -> None:
        plan = settle(config(), FOUND, self.found(0.5), 930 * MIB)
        assert (plan.unfreeze, plan.batch_size) == (0.6, 1)


class TestLoading:
    """Processes load where that was measured to be faster, and only there."""

    def found(self, share: float, precision: Any = "float32") -> Measurement:
        """As with batches of four alone, of which processes make that much of the time."""
        base = tried(4, waits=0.5)
        others = []
        if precision != "float32":
            half = {name: [s / 2 for s in took] for name, took in base.stage_seconds.items()}
            base = replace(base, stage_seconds=half)
            others = [replace(base, precision=precision)]
            base = replace(base, stage_seconds=tried(4).stage_seconds)
        latest = others[-1] if others else base
        loaded = {name: [share * s for s in took] for name, took in latest.stage_seconds.items()}
        less = dict.fromkeys(base.wait_shares, 0.1)
        others.append(
            replace(
                latest, processes=4, stage_seconds=loaded, wait_shares=less,
                peak_bytes=base.peak_bytes + 600 * MIB,
            )
        )  # fmt: skip
        return measured(base, others=others)

    @pytest.mark.parametrize(("share", "processes"), [(0.6, 4), (0.97, 0)])
    @pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
    def test_the_faster_way(self, share: float, processes: int, precision: str) -> None:
        plan = settle(config(), FOUND, self.found(share, precision), 3000 * MIB)
        assert (plan.processes, plan.precision) == (processes, precision)
        assert plan.apply(config()).loader.processes == processes
        assert plan.bottleneck == ("model" if processes else "loading")
        assert plan.peak_bytes == BASE + 4 * EACH + (600 * MIB if processes else 0)
        (line,) = (line for line in plan.ledger if line.name == "loader")
        assert line.source == "measured"
        assert f"{1 / share:.2f} times as fast" in line.reason
        assert "does not fit" not in line.reason

    @pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
    def test_they_are_left_out_where_they_do_not_fit(self, precision: str) -> None:
        plan = settle(config(), FOUND, self.found(0.6, precision), 1500 * MIB)
        assert (plan.processes, plan.precision) == (0, precision)
        assert plan.peak_bytes == BASE + 4 * EACH
        (line,) = (line for line in plan.ledger if line.name == "loader")
        assert "1.67 times as fast" in line.reason
        assert "does not fit" in line.reason

    def test_a_stated_number_is_kept(self) -> None:
        stated = config(loader={"processes": 2})
        plan = settle(stated, FOUND, measured(replace(tried(4), processes=2)), 3000 * MIB)
        assert plan.processes == 2
        (line,) = (line for line in plan.ledger if line.name == "loader")
        assert line.source == "pinned"
        assert "2 processes" in line.value
        with pytest.raises(ConfigError, match=r"loader\.processes must be as in the plan, 2"):
            plan.apply(config(loader={"processes": 3}))


class TestFile:
    """A plan is written, edited, given back; what does not fit to it is refused."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        plan = settle(config(), FOUND, USUAL, 3000 * MIB)
        (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
        return tmp_path / "plan.json"

    def edited(self, file: Path, **changes: Any) -> Path:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return file

    def test_it_comes_back_as_it_was(self, file: Path) -> None:
        assert Plan.load(file) == settle(config(), FOUND, USUAL, 3000 * MIB)

    def test_an_edited_number_counts(self, file: Path) -> None:
        changes = {"batch_size": 6, "gradient_accumulation_steps": 3, "image_size": [96, 128]}
        settled = Plan.load(self.edited(file, **changes)).apply(config())
        assert (settled.batch_size, settled.effective_batch_size) == (6, 18)
        assert settled.data.image_size == (96, 128)
        assert RunConfig.model_validate(settled.model_dump()) == settled

    @pytest.mark.parametrize(
        ("stated", "named"),
        [
            ({"data": {"batch_size": 5}}, r"data\.batch_size must be as in the plan"),
            ({"recipe": {"effective_batch_size": 64}}, r"recipe\.effective_batch_size"),
            ({"recipe": {"precision": "mixed_bfloat16"}}, r"recipe\.precision"),
            ({"runtime": {"backend": "jax"}}, r"'tensorflow', but got 'jax'"),
        ],
    )
    def test_a_setting_that_says_otherwise(
        self, file: Path, stated: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ConfigError, match=named):
            Plan.load(file).apply(config(**stated))

    def test_all_that_is_wrong_is_told(self, file: Path, tmp_path: Path) -> None:
        self.edited(file, batch_size=0, precision="float31", colour="red")
        with pytest.raises(ConfigError, match=r"plan\.json must be a plan") as caught:
            Plan.load(file)
        for name in ("batch_size", "precision", "colour"):
            assert f"{name}: " in str(caught.value)
        with pytest.raises(ConfigError, match="No such file"):
            Plan.load(tmp_path / "none.json")

    def test_a_plan_beyond_the_budget(self, file: Path) -> None:
        stated = config(budget={"ram": "1GiB"})
        with pytest.raises(BudgetError, match=r"budget\.ram must be at least what the plan takes"):
            hold_to_budget("data", stated, Console(quiet=True), file)
        enough = config(budget={"ram": "4GiB"})
        assert hold_to_budget("data", enough, Console(quiet=True), file)[1] == Plan.load(file)


class TestSettle:
    @settings(max_examples=60)
    @given(st.integers(1000, 5000), st.sampled_from([8, 24, 32, 60]))
    def test_what_is_planned_fits_and_makes_a_whole_step(self, ram: int, whole: int) -> None:
        stated = config(recipe={"effective_batch_size": whole})
        plan = settle(stated, FOUND, USUAL, ram * MIB)
        assert plan.peak_bytes < ram * MIB
        assert plan.batch_size * plan.gradient_accumulation_steps == whole
        larger = [n for n in range(plan.batch_size + 1, whole + 1) if whole % n == 0]
        if larger:  # all samples cost alike here, so the largest that fits is taken
            assert peak_bytes(USUAL, larger[0]) > 0.85 * ram * MIB
        applied = plan.apply(stated)
        assert applied.batch_size == plan.batch_size
        assert applied.effective_batch_size == whole

    def test_the_smallest_budget_that_is_named_does(self) -> None:
        with pytest.raises(
            BudgetError, match=r"budget\.ram must be at least [\d,]+ MiB"
        ) as caught:
            settle(config(), FOUND, USUAL, 300 * MIB)
        assert "(800 MiB at the start, 50 MiB for training, 10% kept free)" in str(caught.value)
        named = int(str(caught.value).split("at least ")[1].split(" MiB")[0].replace(",", ""))
        assert settle(config(), FOUND, USUAL, named * MIB).batch_size == 1
        with pytest.raises(BudgetError):
            settle(config(), FOUND, USUAL, (named - 51) * MIB)

    def test_the_ledger_says_how_much_is_unfrozen(self) -> None:
        tries = [replace(one, unfreeze=0.3) for one in USUAL.tries]
        plan = settle(config(), FOUND, replace(USUAL, tries=tries), 4096 * MIB)
        lines = {line.name: line.value for line in plan.ledger}
        assert lines["fine_tune, unfrozen"] == "30% of the backbone's layers"
        assert "frozen, unfrozen" not in lines

    def test_a_pinned_batch_is_kept_or_refused(self) -> None:
        pinned = config(data={"batch_size": 16})
        known = measured(tried(16))
        plan = settle(pinned, FOUND, known, 4096 * MIB)
        assert (plan.batch_size, plan.gradient_accumulation_steps) == (16, 1)
        assert next(line for line in plan.ledger if line.name == "batch size").source == "pinned"
        with pytest.raises(BudgetError, match=r"leave data\.batch_size out"):
            settle(pinned, FOUND, known, 1024 * MIB)

    def test_memory_of_the_accelerator(self) -> None:
        tries = [tried(size, slow=1.0) for size in (1, 4, 32)]
        tries = [replace(one, device_bytes=100 * MIB * one.batch_size) for one in tries]
        on_gpu = measured(*tries, devices=["gpu:0"])
        stated = config(budget={"gpu_memory": 1000 * MIB})
        plan = settle(stated, FOUND, on_gpu, 10_000 * MIB)
        assert plan.batch_size == 8  # of 1, 2, 4, 8, 16, 32 the largest below ten
        with pytest.raises(BudgetError, match=r"budget\.gpu_memory must be at least"):
            settle(config(budget={"gpu_memory": 50 * MIB}), FOUND, on_gpu, 10_000 * MIB)
        with pytest.raises(ConfigError, match="needs an accelerator"):
            settle(stated, FOUND, USUAL, 10_000 * MIB)
        with pytest.raises(ConfigError, match="whose memory tensorflow tells, but got gpu:mps"):
            settle(stated, FOUND, replace(USUAL, devices=["gpu:mps"]), 10_000 * MIB)
        line = next(line for line in plan.ledger if line.name == "accelerator, peak")
        assert (plan.device_bytes, line.value) == (800 * MIB, "800 MiB of 1,000 MiB")
        assert not any("One more GiB" in text for text in plan.advice)  # of that it has enough
        narrow = config(budget={"gpu_memory": 700 * MIB})
        with pytest.raises(
            BudgetError, match=r"budget\.gpu_memory must be at least what the plan"
        ):
            hold_to_budget(None, narrow, Console(quiet=True), plan)
        assert hold_to_budget(None, stated, Console(quiet=True), plan) == (None, plan)

    def test_what_pins_the_batch_is_named(self) -> None:
        accumulating = config(recipe={"gradient_accumulation_steps": 2})
        plan = settle(accumulating, FOUND, USUAL, 8192 * MIB)
        line = next(line for line in plan.ledger if line.name == "batch size")
        assert (line.source, line.reason) == ("pinned", "recipe.gradient_accumulation_steps")
        with pytest.raises(BudgetError, match=r"leave recipe\.gradient_accumulation_steps out"):
            settle(accumulating, FOUND, USUAL, 1024 * MIB)

    @given(ram=st.integers(300, 2000))
    def test_the_budget_that_is_named_has_room_for_the_queue_that_it_allows(
        self, ram: int
    ) -> None:
        """Batches that wait take a part of the memory: with more of it they take more."""

        def settled(mib: int) -> Plan:
            queue = min(256 * MIB, mib * MIB // QUEUE_SHARE)
            stated = config(data={"batch_size": 4}, loader={"queue": queue})
            filled = replace(tried(4), peak_bytes=BASE + 4 * EACH + queue)
            return settle(stated, FOUND, measured(filled), mib * MIB)

        try:
            settled(ram)
        except BudgetError as error:
            number, unit = str(error).split("at least ")[1].split(" for")[0].split()
            assert settled(math.ceil(float(number) * (1024 if unit == "GiB" else 1)))

    def test_the_fastest_is_taken_where_batches_cost_by_themselves(self) -> None:
        tries = [tried(size, slow=1.0) for size in (1, 4, 32)]
        assert settle(config(), FOUND, measured(*tries), 8192 * MIB).batch_size == 32

    @pytest.mark.parametrize(("times_as_slow", "taken"), [(9.0, 16), (1.15, 32)])
    def test_a_larger_batch_is_taken_unless_it_is_slower_by_more_than_noise(
        self, times_as_slow: float, taken: int
    ) -> None:
        slow = {
            name: [times_as_slow * second for second in seconds]
            for name, seconds in tried(32).stage_seconds.items()
        }
        found = measured(tried(1), tried(4), replace(tried(32), stage_seconds=slow))
        assert settle(config(), FOUND, found, 8192 * MIB).batch_size == taken

    def test_few_samples_are_taken_only_where_no_more_fit(self) -> None:
        """However fast: batch normalization knows too little of so few."""
        slow = [replace(tried(size), stage_seconds={}) for size in (1, 4, 32)]
        for one in slow:
            seconds = 0.1 * one.batch_size * (2 if one.batch_size > 1 else 1)
            one.stage_seconds.update(frozen=[seconds] * 5, fine_tune=[seconds] * 5)
        found = measured(*slow)
        assert settle(config(), FOUND, found, 8192 * MIB).batch_size == 32
        whole = config(recipe={"effective_batch_size": 8})
        assert settle(whole, FOUND, found, 8192 * MIB).batch_size == 8
        room = (BASE + 9 * EACH) / (1 - KEPT_FREE)
        assert settle(config(), FOUND, found, round(room)).batch_size == 8

    def test_time(self) -> None:
        plan = settle(config(), FOUND, USUAL, 8192 * MIB)
        # 800 samples at 0.02 and 0.1 s, 100 judged at 0.02 s.
        assert plan.epoch_seconds == pytest.approx({"frozen": 18.0, "fine_tune": 82.0})
        # 10 s to start, 10 and 5 epochs, 100 samples to judge, and what ends a run.
        assert plan.total_seconds == pytest.approx(10 + 180 + 410 + 2 + END_SECONDS)

    def test_judging_takes_the_time_of_what_is_judged(self) -> None:
        """Not that of the rows of a split: tiles overlap when they are judged."""
        rows = {"train": 800, "validation": 100, "test": 0}
        few, many = (
            total_seconds(replace(USUAL, rows=rows, judged=judged), 32) or 0.0
            for judged in (100, 350)
        )
        assert many - few == pytest.approx(250 * 0.02)

    def test_an_epoch_takes_the_time_of_its_whole_steps(self) -> None:
        """Rows that make no whole step are not trained on; repeated ones are, again."""
        for samples in (768, 2400):
            plan = settle(config(), FOUND, replace(USUAL, epoch_samples=samples), 8192 * MIB)
            expected = {"frozen": samples * 0.02 + 2, "fine_tune": samples * 0.1 + 2}
            assert plan.epoch_seconds == pytest.approx(expected)

    def test_time_is_open_where_the_number_of_epochs_is(self) -> None:
        open_ended = measured(tried(1), tried(32), stages=[("frozen", None), ("fine_tune", None)])
        plan = settle(config(budget={"time": 600}), FOUND, open_ended, 8192 * MIB)
        assert plan.total_seconds is None
        assert any("10 min" in line.value for line in plan.ledger)

    def test_a_limit_that_ends_the_stated_epochs_is_told(self) -> None:
        def told(seconds: float) -> Line:
            plan = settle(config(budget={"time": seconds}), FOUND, USUAL, 8192 * MIB)
            return next(line for line in plan.ledger if line.name == "time, in all")

        assert told(1200).value.startswith("10 min ±")  # 606.5 s
        assert told(600).value == "at most 10 min"
        assert told(600).source == "stated"
        assert "budget.time ends it; the stated epochs would take 10 min ±" in told(600).reason

    @given(rows=st.integers(0, 20_000), seconds=st.integers(1, 1000))
    def test_a_time_for_no_model_is_refused_and_one_that_does_is_named(
        self, rows: int, seconds: int
    ) -> None:
        open_stages = [("frozen", None), ("fine_tune", None)]
        many = {"train": 800, "validation": rows, "test": rows}
        tries = measured(tried(1), tried(4), tried(32), stages=open_stages, rows=many, judged=rows)
        # Started, validated and judged at 50 samples a second, ended.
        least = 10 + 2 * rows * 0.02 + END_SECONDS
        if seconds >= least:
            settle(config(budget={"time": seconds}), FOUND, tries, 2**40)
            return
        with pytest.raises(BudgetError, match=r"budget\.time must be at least") as error:
            settle(config(budget={"time": seconds}), FOUND, tries, 2**40)
        named = str(error.value).split('"')[1]
        assert least <= float(named.rstrip("s")) <= 1.25 * least + 5
        settle(config(budget={"time": named}), FOUND, tries, 2**40)

    def test_the_bottleneck_is_told(self) -> None:
        assert settle(config(), FOUND, USUAL, 8192 * MIB).bottleneck == "model"
        waiting = measured(*(tried(size, waits=0.5) for size in (1, 4, 32)))
        plan = settle(config(), FOUND, waiting, 8192 * MIB)
        assert plan.bottleneck == "loading"
        assert any("50% of the time" in text for text in plan.advice)

    def test_what_one_more_gib_would_buy(self) -> None:
        slow = measured(*(tried(size, slow=0.5) for size in (1, 4, 32)))
        plan = settle(config(), FOUND, slow, 2000 * MIB)
        assert any("One more GiB would allow batches of 32" in text for text in plan.advice)
        assert not any(
            "One more GiB" in text for text in settle(config(), FOUND, USUAL, 8192 * MIB).advice
        )


@pytest.mark.parametrize(("slowness", "expected"), [(1.08, 1.04), (1.3, 1.3)])
def test_a_slow_moment_weighs_less_but_what_is_slow_stays_so(
    slowness: float, expected: float
) -> None:
    *others, last = (tried(size, slow=0.5) for size in (1, 16, 32))
    slow = {
        name: [slowness * second for second in seconds]
        for name, seconds in last.stage_seconds.items()
    }
    found = measured(*others, replace(last, stage_seconds=slow))
    ratio = batch_seconds(found, "fine_tune", 32) / batch_seconds(measured(last), "fine_tune", 32)
    assert ratio == pytest.approx(expected, rel=0.02)


def test_short_runs_are_less_certain() -> None:
    """Starting and compiling are measured but once, and differ most."""
    tries = [replace(one, compile_seconds=30.0) for one in USUAL.tries]
    errors = [
        settle(config(), FOUND, measured(*tries, stages=[("fine_tune", n)]), 8192 * MIB).error
        for n in (1, 10, 1000)
    ]
    assert 0.3 > errors[0] > errors[1] > errors[2] > 0.05
    assert errors[2] == pytest.approx(0.05, abs=0.01)


def test_what_compiling_takes_is_told_by_tries_of_about_that_size() -> None:
    """Smaller batches accumulate gradients: that takes longer to compile."""
    one, four, all_at_once = (replace(one, compile_seconds=50.0) for one in USUAL.tries)
    found = measured(one, four, replace(all_at_once, compile_seconds=10.0))
    for size, compiling in {32: 10.0, 4: 50.0}.items():
        without = total_seconds(USUAL, size)
        assert without is not None
        assert total_seconds(found, size) == pytest.approx(without + compiling)


def test_lines_go_through_what_was_tried() -> None:
    for size in (1, 4, 32):
        assert peak_bytes(USUAL, size) == BASE + size * EACH
        assert batch_seconds(USUAL, "fine_tune", size) == pytest.approx(0.1 * size)
    assert peak_bytes(USUAL, 64) == BASE + 64 * EACH


def test_the_ledger_names_a_cache_where_there_is_one() -> None:
    def lines(stated: RunConfig, processes: int = 0, **others: Any) -> dict[str, Line]:
        one = replace(tried(1), processes=processes)
        found = measured(one, weight_bytes=10 * MIB, **others)
        return {line.name: line for line in settle(stated, FOUND, found, 8192 * MIB).ledger}

    without = lines(config(budget={"disk": "900MiB"}))
    assert "cache" not in without
    assert without["disk"].value == "130 MiB"
    third = lines(config(budget={"disk": "900MiB"}), caches=True)
    assert (third["cache"].value, third["cache"].source) == ("300 MiB", "derived")
    assert third["disk"].value == "430 MiB"
    pinned = lines(config(loader={"cache": "200MiB"}), processes=2, caches=True)
    assert (pinned["cache"].value, pinned["cache"].source) == ("400 MiB", "pinned")
    assert pinned["disk"].value == "530 MiB"


class TestData:
    """The ledger says what the data is, as far as a trial found it out."""

    @staticmethod
    def lines(**found: Any) -> dict[str, Line]:
        plan = settle(config(), FOUND, replace(USUAL, **found), 8192 * MIB)
        return {line.name: line for line in plan.ledger}

    def test_classes_of_images(self) -> None:
        line = self.lines(class_counts={"nebula": 1500, "comet": 21, "galaxy": 155})["classes"]
        assert line.value == "3, 21 to 1,500 images"
        assert "rarest comet, most frequent nebula" in line.reason

    def test_classes_of_pixels(self) -> None:
        counts = {"0": 900_000, "1": 96_000, "2": 4_000}
        line = self.lines(class_counts=counts, counts_pixels=True)["classes"]
        assert line.value == "3, 0.4% to 90% of the pixels"
        assert self.lines(class_counts={"0": 0, "1": 0}, counts_pixels=True)

    def test_loading(self) -> None:
        seconds = {"read": 0.0005, "decode": 0.003, "warp": 0.0015}
        line = self.lines(load_seconds=seconds)["loading"]
        assert line.value == "200 images/s a thread"
        assert line.reason == "milliseconds an image: read 0.5, decode 3, warp 1.5"

    def test_what_no_trial_found_has_no_line(self) -> None:
        assert not {"classes", "loading"} & set(self.lines())


def test_a_measurement_survives_json() -> None:
    import json
    from dataclasses import asdict

    assert Measurement.from_dict(json.loads(json.dumps(asdict(USUAL)))) == USUAL


def test_nothing_is_planned_beyond_a_single_try() -> None:
    """Where memory allowed but one size, nobody knows what a larger batch would take."""
    plan = settle(config(), FOUND, measured(tried(2)), 8192 * MIB)
    assert plan.batch_size == 2
