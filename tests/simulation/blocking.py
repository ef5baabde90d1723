"""The same for `def` jobs, whose code blocks a thread."""

from __future__ import annotations

from typing import Any

from durably import SyncStep, job
from tests.simulation.workload import MOST_TRIES, TICK, Act, Actor, Failure, Plan, Scene, leaf


class Blocker(Actor):
    """One execution of one run in a thread. What it notes there has a kind of its own: no thread can be interrupted."""

    def block(self, seconds: float, step: str = "") -> None:
        """Let time pass, and show that the code still runs."""
        end = self.scene.world.now + seconds
        while (left := end - self.scene.world.now) > 1e-9:
            self.scene.environment.sleep(min(left, TICK))
            self.note("tick thread", step)

    def work_here(self, name: str, act: Act) -> list[int]:
        """The function of a step."""
        self.note("start thread", name)
        number = self.count(name)
        value = [number, len(name)]
        if act.kind == "poison" and number <= act.times:
            self.scene.world.note(f"{self.scene.process.name:10} is killed by {name} of {self.run}")
            self.scene.process.die()
            self.scene.environment.sleep(1e9)
        if act.seconds:
            self.block(act.seconds, name)
        if act.kind in {"flaky", "fatal"} and number <= act.times:
            raise Failure(f"{name} fails for the {number}. time")
        self.note("done thread", name, list(value))
        self.scene.world.call_later(0.0005, lambda: value.append(-1), process=self.scene.process)
        return value

    def once_here(self, step: SyncStep[Scene], act: Act, place: str) -> list[int]:
        name = f"{act.kind}[{place}]"
        value = step.run(act.kind, self.work_here, name, act, key=place)
        self.note("got", name, list(value))
        return value

    def patiently_here(self, step: SyncStep[Scene], act: Act, place: str) -> list[int]:
        """Try until it works, swallowing whatever a job may swallow."""
        for _ in range(MOST_TRIES):
            try:
                return self.once_here(step, act, place)
            except Exception:  # noqa: BLE001  # what users do
                self.note("swallowed", f"{act.kind}[{place}]")
        raise Failure("it never works")

    def act_here(self, step: SyncStep[Scene], act: Act, place: int) -> list[int]:
        match act.kind:
            case "rest":
                self.block(act.seconds)
                return []
            case "pair" | "group":
                pair = [self.once_here(step, Act("work", act.seconds), f"{place}{half}") for half in "ab"]
                return [number for value in pair for number in value]
            case "child":
                child = step.trigger(leaf, Plan(f"{self.run}/{place}", []), key=place)
                self.note("child", f"child[{place}]", child)
                return []
            case "flaky":
                return self.patiently_here(step, act, str(place))
            case "swallow":
                return self.patiently_here(step, Act("work", act.seconds), str(place))
            case _:
                return self.once_here(step, act, str(place))


@job("blocking")
def blocking(step: SyncStep[Scene], plan: Plan) -> list[list[int]]:
    steps: Any = vars(step)["_steps"]
    actor = Blocker(step.deps, step.run_id, steps.lease.generation)
    actor.note("begin", "", step.attempt)
    try:
        values = [actor.act_here(step, act, place) for place, act in enumerate(plan.acts)]
    except Exception as error:
        actor.note("raise", "", type(error).__name__)
        raise
    except BaseException as error:
        actor.note("cut", "", type(error).__name__)
        raise
    actor.note("end", "", values)
    return values
