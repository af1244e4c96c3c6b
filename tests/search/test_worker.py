"""Studies whose trials end at once: who works on which, whatever is killed."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from studies import (
    FACTS,
    accounted,
    running,
    settings,
    study_folder,
    trials,
    until,
    worker,
)

from foveate import machine
from foveate.config.files import load_config
from foveate.data.manifest import read_manifest
from foveate.errors import BudgetError, ConfigError, RunError
from foveate.search.queue import (
    QueuedStudy,
    QueueEmpty,
    has_outcome,
    original_number,
    queue_more,
    reclaim,
    reclaim_lost,
    this_worker,
)
from foveate.search.search import resume
from foveate.search.space import Space
from foveate.search.study import StudyFolder, create_study, open_storage
from foveate.search.trial import TrialRuns, with_share
from foveate.search.worker import Worker


class TestCreate:
    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ({"search.objective": "acuracy"}, "Did you mean 'accuracy'"),
            ({"search.objective": "macro_f1", "search.pruning": "median"}, "told every epoch"),
            ({"search.proxy": "frozen"}, "pretrained backbone"),
            (
                {"search.strategy": "grid", "search.space.model.dropout": "0.1,0.2,0.3"},
                "3 combinations|choices or a step",
            ),
        ],
    )
    def test_what_contradicts_the_data_is_refused(
        self, tmp_path: Path, flags: dict[str, str], told: str
    ) -> None:
        config = load_config(None, {"search.trials": "2", **flags})
        folder = StudyFolder(tmp_path)
        folder.save_config(config)
        with pytest.raises(ConfigError, match=told):
            create_study(folder, config, FACTS, Space(config))

    def test_a_name_is_taken_once(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'shared.db'}"
        folder = study_folder(tmp_path / "one", search__storage=url)
        with pytest.raises(RunError, match="holds a study named 'one'"):
            create_study(folder, folder.config(), FACTS, Space(folder.config()))

    def test_a_password_is_not_shown(self, tmp_path: Path) -> None:
        url = "postgresql://me:secret@127.0.0.1:1/nowhere"
        with pytest.raises(RunError, match=r"127\.0\.0\.1") as caught:
            study_folder(tmp_path / "one", search__storage=url)
        assert "secret" not in str(caught.value)

    def test_a_database_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="database that can be reached"):
            study_folder(tmp_path / "one", search__storage=f"sqlite:///{tmp_path}/no/such.db")


class TestWork:
    def test_the_default_settings_come_first_then_others(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study")
        Worker(folder).work()
        found = settings(folder)
        assert found[0] == {"recipe.learning_rate": 1e-3, "model.dropout": 0.2}
        assert len(found) == len({tuple(values.values()) for values in found}) == 4
        assert {one.user_attrs["outcome"] for one in trials(folder)} == {"timed out"}
        assert all("had not ended after" in one.user_attrs["reason"] for one in trials(folder))

    @pytest.mark.parametrize("strategy", ["random", "bayesian", "gaussian_process"])
    def test_the_same_seed_tries_the_same(self, tmp_path: Path, strategy: str) -> None:
        folders = [
            study_folder(tmp_path / name, search__strategy=strategy, search__trials="3", seed=seed)
            for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
        ]
        for folder in folders:
            Worker(folder).work()
        first, second, other = map(settings, folders)
        assert first == second != other

    def test_a_grid_is_tried_whole(self, tmp_path: Path) -> None:
        folder = study_folder(
            tmp_path / "study",
            search__strategy="grid",
            search__trials="none",
            search__space__model__dropout="0.1,0.2",
            search__space__recipe__learning_rate="0.001,0.01",
        )
        Worker(folder).work()
        tried = [(one["model.dropout"], one["recipe.learning_rate"]) for one in settings(folder)]
        assert tried[0] == (0.2, 0.001)  # the default settings
        assert sorted(tried) == [(0.1, 0.001), (0.1, 0.01), (0.2, 0.001), (0.2, 0.01)]
        with pytest.raises(ConfigError, match=r"A grid is tried whole, so search\.trials"):
            resume(folder.path, {"search.trials": "60"})
        assert folder.config().search.trials is None

    def test_too_much_memory_makes_a_trial_infeasible(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = study_folder(
            tmp_path / "study", search__trials="1", search__budget__trial_time="60s"
        )
        monkeypatch.setattr("foveate.search.worker.memory_share", lambda config: 1024)
        Worker(folder).work()
        (only,) = trials(folder)
        assert only.user_attrs["outcome"] == "infeasible"
        assert "more than the 0 MiB" in only.user_attrs["reason"]
        assert only.state == TrialState.PRUNED  # so that a sampler keeps away from it

    @pytest.mark.parametrize("workers", [1, 3])
    def test_workers_and_trials_share_the_memory(self, workers: int) -> None:
        stated = 6 * 1024**3
        config = load_config(None, {"budget.ram": str(stated), "search.workers": str(workers)})
        trial = with_share(config).budget.ram
        assert trial is not None
        assert 320 * 1024**2 < stated / workers - trial < 400 * 1024**2  # the worker itself

    def test_trials_share_processors_that_cannot_be_divided(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = load_config(None, {"search.workers": "2"})
        assert with_share(config).budget.cpus is not None
        monkeypatch.setattr("foveate.machine.can_limit_cpus", lambda: False)
        assert with_share(config).budget.cpus is None
        stated = load_config(None, {"search.workers": "2", "budget.cpus": "2"})
        assert with_share(stated).budget.cpus == 1

    def test_memory_that_workers_take_alone_is_refused(self) -> None:
        config = load_config(None, {"budget.ram": "1GiB", "search.workers": "3"})
        with pytest.raises(BudgetError, match=r"more than the 1\.03 GiB"):
            with_share(config)

    def test_settings_that_contradict_each_other_are_infeasible(self, tmp_path: Path) -> None:
        folder = study_folder(
            tmp_path / "study",
            search__strategy="grid",
            search__trials="none",
            recipe__effective_batch_size="32",
            search__space__recipe__learning_rate="0.001",
            search__space__model__dropout="0.2",
            search__space__data__batch_size="16,32",
            search__space__recipe__gradient_accumulation_steps="1,2",
        )
        Worker(folder).work()
        keys = "data.batch_size", "recipe.gradient_accumulation_steps"
        outcomes = {
            tuple(one.user_attrs["settings"][key] for key in keys): one.user_attrs["outcome"]
            for one in trials(folder)[1:]
        }
        assert outcomes == {
            (16, 1): "infeasible",
            (16, 2): "timed out",
            (32, 1): "timed out",
            (32, 2): "infeasible",
        }
        reasons = [one.user_attrs["reason"] for one in trials(folder)]
        assert sum("must be recipe.effective_batch_size" in reason for reason in reasons) == 2

    def test_more_can_be_asked_for(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__trials="2")
        Worker(folder).work()
        more = load_config(None, {"search.trials": "5"}).search
        queue_more(folder.load(), more)
        Worker(folder).work()
        assert [original_number(one) for one in trials(folder)] == [0, 1, 2, 3, 4]

    def test_when_the_time_is_up_nothing_is_begun(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study")
        folder.load().set_user_attr("deadline", time.time() - 1)
        Worker(folder).work()
        assert {one.state for one in trials(folder)} == {TrialState.WAITING}

    def test_where_only_the_time_is_stated_it_decides(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__trials="none", search__budget__time="3s")
        folder.load().set_user_attr("deadline", time.time() + 10 + 3)  # it reports for 10 s
        Worker(folder).work()
        assert len(trials(folder)) > 1
        assert all(one.state.is_finished() for one in trials(folder))


def ask(study: optuna.Study) -> optuna.Trial:
    """Take a trial as a worker does that is killed before its heart beats for it."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        return study.ask()


def stop_between_writes(process: subprocess.Popen[bytes], folder: StudyFolder) -> None:
    """Let a worker stand still, though not in the midst of a write, which keeps all others out."""
    while True:
        process.send_signal(signal.SIGSTOP)
        with closing(sqlite3.connect(folder.storage_url().removeprefix("sqlite:///"))) as database:
            database.execute("PRAGMA busy_timeout = 200")
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)
                continue
            database.rollback()
            return


class TestKilled:
    def test_a_trial_whose_worker_was_killed_is_queued_again(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__budget__trial_time="2s")
        process = worker(folder, 0)
        until(lambda: any("folder" in one.user_attrs for one in running(folder)))
        (victim,) = running(folder)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "the run of a worker that is gone must end, too"
        Worker(folder).work()
        assert accounted(folder) == [0, 1, 2, 3]
        retried = next(one for one in trials(folder) if original_number(one) != one.number)
        assert original_number(retried) == victim.number
        assert retried.user_attrs["settings"] == victim.user_attrs["settings"]
        assert retried.user_attrs["folder"] == victim.user_attrs["folder"]

    def test_two_workers_share_the_trials(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__trials="8")
        workers = [worker(folder, number) for number in range(2)]
        assert [process.wait(120) for process in workers] == [0, 0]
        assert accounted(folder) == list(range(8))
        pids = {one.user_attrs["worker"]["pid"] for one in trials(folder)}
        assert pids == {process.pid for process in workers}

    @pytest.mark.skipif(machine.cpu_count() < 2, reason="one processor has no parts")
    def test_trials_of_two_workers_keep_to_different_processors(
        self, tmp_path: Path, digit_folders: Path
    ) -> None:
        folder = study_folder(
            tmp_path / "study",
            search__workers="2",
            search__budget__trial_time="600s",
            model__backbone="simple_cnn",
            data__image_size="16",
            recipe__epochs="1000",
        )
        read_manifest(digit_folders, folder.config().data).save(folder.manifest_path)
        workers = [worker(folder, number) for number in range(2)]
        share = machine.cpu_count() // 2
        found: list[set[int]] = []

        def are_settled() -> bool:
            children = [psutil.Process(one.pid).children() for one in workers]
            found[:] = [set(one.cpu_affinity()) for one in itertools.chain(*children)]
            return [len(processors) for processors in found] == [share, share]

        try:
            until(are_settled)
        finally:
            for process in workers:
                process.kill()
                process.wait()
        assert found[0].isdisjoint(found[1])

    def test_a_trial_is_taken_by_one_worker_alone(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__trials="40")
        taken: list[int] = []

        def objective(trial: optuna.Trial) -> float:
            taken.append(trial.number)
            return 1.0

        def work() -> None:
            study = QueuedStudy(folder.name, open_storage(folder.storage_url()))
            with pytest.raises(QueueEmpty):
                study.optimize(objective)

        with ThreadPoolExecutor(4) as pool:
            for worker in [pool.submit(work) for _ in range(4)]:
                worker.result()
        assert sorted(taken) == list(range(40))
        assert len(trials(folder)) == 40  # none was made up when the queue was empty

    @pytest.mark.parametrize(("shift", "is_left"), [(0.0, False), (1.0, False), (100.0, True)])
    def test_a_clock_that_is_set_does_not_make_a_worker_look_dead(
        self, tmp_path: Path, shift: float, is_left: bool
    ) -> None:
        folder = study_folder(tmp_path / "study", search__trials="1")
        other = psutil.Process(os.getppid())
        known = {**this_worker(), "pid": other.pid, "since": other.create_time() + shift}
        ask(folder.load()).set_user_attr("worker", known)
        reclaim(folder.load())
        assert (len(trials(folder)) == 2) == is_left

    def test_stopped_by_a_signal_its_trial_is_queued_again(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__budget__trial_time="600s")
        process = worker(folder, 0)
        until(lambda: any("folder" in one.user_attrs for one in running(folder)))
        process.send_signal(signal.SIGINT)
        assert process.wait(100) != 0
        *found, again = trials(folder)
        # Perhaps a trial came to its own end before the signal came.
        (stopped,) = [
            one for one in found if one.state == TrialState.FAIL and not has_outcome(one)
        ]
        later = [*found[stopped.number + 1 :], again]
        assert [one.state for one in later] == [TrialState.WAITING] * len(later)
        assert original_number(again) == stopped.number

    def test_a_worker_that_stood_still_leaves_its_trial_to_others(self, tmp_path: Path) -> None:
        folder = study_folder(
            tmp_path / "study", search__trials="2", search__budget__trial_time="4s"
        )
        still = worker(folder, 0, impatient=True)
        until(lambda: any("folder" in one.user_attrs for one in running(folder)))
        stop_between_writes(still, folder)
        other = worker(folder, 1, impatient=True)
        assert other.wait(100) == 0
        still.send_signal(signal.SIGCONT)
        assert still.wait(100) == 0
        assert accounted(folder) == [0, 1]

    def test_a_worker_that_stood_still_at_once_leaves_its_trial(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("foveate.search.study.GRACE", 1)
        folder = study_folder(tmp_path / "study", search__trials="1")
        study = QueuedStudy(folder.name, open_storage(folder.storage_url()))
        parent = psutil.Process(os.getppid())  # it lives, but its heart does not go on
        known = {**this_worker(), "pid": parent.pid, "since": parent.create_time()}
        ask(study).set_user_attr("worker", known)
        reclaim(folder.load())
        assert [one.state for one in trials(folder)] == [TrialState.RUNNING]
        time.sleep(2.5)  # the database counts in whole seconds
        reclaim(folder.load())
        assert [one.state for one in trials(folder)] == [TrialState.FAIL, TrialState.WAITING]

    def test_one_that_was_just_taken_is_not_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("foveate.search.queue.GRACE", 1)
        folder = study_folder(tmp_path / "study")
        ask(folder.load())  # killed here: nobody knows who had it, no heart has beaten
        time.sleep(1.1)
        reclaim(folder.load())
        assert [original_number(one) for one in trials(folder)] == [0, 1, 2, 3, 0]

    def test_one_that_was_ended_but_not_queued_is_not_lost(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study")
        study = folder.load()
        study.tell(ask(study), state=TrialState.FAIL)  # killed here, while it reclaimed
        for _ in range(2):  # nor is it queued twice
            reclaim_lost(folder.load())
        assert [original_number(one) for one in trials(folder)] == [0, 1, 2, 3, 0]

    def test_one_that_kills_is_given_up(self, tmp_path: Path) -> None:
        folder = study_folder(tmp_path / "study", search__trials="1")
        for _ in range(10):
            study = folder.load()
            if not study.get_trials(False, (TrialState.WAITING,)):
                break
            study.tell(ask(study), state=TrialState.FAIL)
            reclaim_lost(folder.load())
        assert len(trials(folder)) == 4  # tried once, and three times again

    def test_one_that_was_stopped_often_is_not_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(runs: TrialRuns) -> float:
            raise KeyboardInterrupt

        monkeypatch.setattr(TrialRuns, "value", stop)
        folder = study_folder(tmp_path / "study", search__trials="1")
        for number in range(1, 6):
            with pytest.raises(KeyboardInterrupt):
                Worker(folder).work()
            found = trials(folder)
            assert [one.state for one in found].count(TrialState.WAITING) == 1
            assert len(found) == number + 1
            assert {original_number(one) for one in found} == {0}
        for _ in range(3):  # stopping does not count as what kills
            study = folder.load()
            study.tell(ask(study), state=TrialState.FAIL)
            reclaim_lost(folder.load())
            assert trials(folder)[-1].state == TrialState.WAITING
        monkeypatch.undo()
        Worker(folder).work()
        assert accounted(folder) == [0]
