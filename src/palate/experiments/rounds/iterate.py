"""Rounds: the policy answers fresh prompts, the answers are judged, it learns from the judgements, and again.

    round-1/prompts.jsonl       fresh prompts of the round
            samples/            a run of `palate sample`: K responses of the policy that the round starts from
            judged/             a run of `palate judge`, where a model judges
            rankings.jsonl      what was said of them; labels.json: how many, how far labelers agree, what was foretold
            reward/             a run of `palate reward`, on the judgements of all rounds so far or on these alone
            policy/             a run of the stage that the recipe names, from the policy of the round before
            answers.jsonl       of the new policy to the held-out prompts
            control/            from round 2 on: as many steps from the control's last policy, on round 1's judgements
            control_answers.jsonl
    held_out_prompts.jsonl      what all are measured on; first_answers.jsonl: by the first model
    report.html, .json          round beside round, written anew after each

Every stage is a run as of its own command, to be looked at, and repeated, alone. What is finished is not done again;
killed in the middle, the same command goes on, with the same bits. Where people judge, the command ends when it has to
wait for them, and goes on when their file is there. More rounds may be asked for later.

The control says what fresh labels are worth: a learned reward is only known where it was learned, and a policy that
moves on leaves that place (Bai et al. 2022, arXiv 2204.05862, section 4.5: reward models and policies anew, week by
week; Gao et al. 2022, arXiv 2210.10760, for what happens without).

Run it: `palate rounds recipes/rounds.toml`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

from palate import disk
from palate.commands import STAGES
from palate.corpus import read_prompts, read_rankings
from palate.corpus.reading import Read
from palate.corpus.splits import large_enough
from palate.demo.chain import Chain
from palate.errors import MachineError, RecipeError
from palate.experiments.rounds.division import Division, divided
from palate.experiments.rounds.held_out import Kept, Measuring
from palate.experiments.rounds.judging import JUDGED, Waiting, judge_of
from palate.experiments.rounds.labels import Labels, described
from palate.experiments.rounds.recipes import RoundRecipes
from palate.experiments.rounds.rounds_page import Round, write_report
from palate.intervals import Estimate
from palate.lm.chat import Chat
from palate.lm.memory import give_back_freed_memory
from palate.lm.sources.zoo import load_chat
from palate.recipe import RoundsRecipe, load_recipe
from palate.records import Candidates, Prompt, Ranking, Response
from palate.rewards.judges.constitutions import read_constitution
from palate.rewards.judges.endpoint_client import EndpointClient
from palate.run import lineage
from palate.run.directory import Run
from palate.run.trackers import duration
from palate.stages.estimate.trial import foresee, tell

Train = Callable[[Any, Run], None]
FIRST = "first_answers.jsonl"


class Rounds(Chain):
    """All rounds of a recipe.

    Args:
        out: directory of everything.
        source: where the recipe comes from, for errors.
    """

    def __init__(self, recipe: RoundsRecipe, out: Path, *, source: str = "recipe") -> None:
        super().__init__(out, recipe.seed, frozen_layers=recipe.frozen_layers, precision=recipe.precision)
        self.recipe, self.source = recipe, source
        self.recipes = RoundRecipes(recipe, out, source)
        self.judge = judge_of(recipe)
        self._took: list[float] = []

    def run(self) -> None:
        """Every round that is not over, up to where people are waited for.

        Raises:
            PalateError: a mistake that is found before anything is run, or a stage's own.
        """
        if begun := self._begun():
            self._go_further()
        else:
            self.check()
        run = Run.open(self.out, self.recipe, resume=begun)
        if not run.finished:
            self.carry_out(run)

    def carry_out(self, run: Run) -> None:
        """The rounds that are not over, in a directory that is open."""
        if self._begun():
            run.go_on()
        data, division = self.divide()
        run.add_inputs({"fresh prompts": data["prompts"].files, "held-out prompts": data["held_out"].files})
        self._put_down(run, data, division)
        self.measure(run, FIRST, "")
        for number in range(1, self.recipe.rounds + 1):
            if not self._is_over(number):
                self._say_where(run, number)
            started = time.monotonic()
            if not self.round(number, run):
                return
            self._took.append(time.monotonic() - started)
            self.report(number, run)
        run.finish({"seconds": self.seconds()})

    def round(self, number: int, run: Run) -> bool:
        """Sample, judge, learn, measure; False if it has to wait for people."""
        here, recipes = f"round-{number}", self.recipes
        self.perform(f"{here}/samples", recipes.sample(number), self._train("sample"))
        if not self.judged(number, run):
            return False
        if recipes.learns_a_reward:
            self.perform(f"{here}/reward", self._held_out(recipes.reward(number), run), self._train("reward"))
        self.improve(f"{here}/policy", number, recipes.policy(number - 1), number, run)
        self.measure(run, f"{here}/answers.jsonl", recipes.policy(number))
        if number > 1 and self.recipe.control:
            self.improve(f"{here}/control", number, recipes.control(number - 1), 1, run)
            self.measure(run, f"{here}/control_answers.jsonl", recipes.control(number))
        return True

    def judged(self, number: int, run: Run) -> bool:
        """Have the candidates judged; False if that takes longer."""
        here = self.out / f"round-{number}"
        if (here / "rankings.jsonl").exists():
            return True
        if self.recipes.asks_a_model:
            self.perform(f"{here.name}/{JUDGED}", self.recipes.judge(number), self._train("judge"))
        found = self.judge(self.read(f"{here.name}/samples/candidates.jsonl", Candidates), here)
        if isinstance(found, Waiting):
            run.say(found.advice)
            return False
        models = {each: self.recipes.reward_model(each) for each in sorted({1, number - 1}) if 1 <= each < number}
        described(
            found.rankings,
            models if self.recipes.learns_a_reward else {},
            precision=self.precision,
            seed=self.seed,
            notes=found.notes,
        ).write(here / "labels.json")
        self.write(f"{here.name}/rankings.jsonl", found.rankings)  # last: with it the round is judged
        give_back_freed_memory()
        return True

    def improve(self, name: str, number: int, start: str, judged_until: int, run: Run) -> None:
        """A policy learns from the judgements up to a round."""
        recipe = self.recipes.improve(number, start, judged_until=judged_until)
        recipe = recipe if self.recipes.learns_a_reward else self._held_out(recipe, run)
        self.perform(name, recipe, self._train(self.recipes.improving.name))

    def measure(self, run: Run, name: str, policy: str) -> None:
        """Let a policy answer the held-out prompts, unless it has; without a directory it is the first model."""
        if not (self.out / name).exists():
            measuring = Measuring(self.recipes.evaluation(policy), run)
            (measuring.answers(policy) if policy else measuring.first_answers()).write(self.out / name)
            del measuring
            give_back_freed_memory()

    def report(self, until: int, run: Run) -> None:
        """The page of the rounds that are over."""
        first = Kept.read(self.out / FIRST)
        asked = len(self.read("held_out_prompts.jsonl", Prompt))
        short = asked - len(first.lines)
        notes = [f"{short} of {asked} held-out prompts leave no room for a response: not measured on"] if short else []
        write_report(
            self.out,
            [self._told(number) for number in range(1, until + 1)],
            first,
            asked=self.recipe.rounds,
            seed=self.seed,
            seconds=self.seconds(),
            notes=[*run.notes, *notes],
        )

    # Before it begins.

    def divide(self) -> tuple[dict[str, Read[Prompt]], Division]:
        """What was read, and the prompts of every round."""
        data = {"prompts": read_prompts(self.recipe.prompts), "held_out": read_prompts(self.recipe.held_out)}
        division = divided(
            data["prompts"].records,
            data["held_out"].records,
            rounds=self.recipe.rounds,
            each=self.recipe.prompts_per_round,
            seed=self.seed,
        )
        return data, division

    def _begun(self) -> bool:
        return any(self.out.glob("round-*/*/metrics.jsonl"))

    def check(self) -> None:
        """Find mistakes before hours are spent: in keys, in data, and in what does not fit into memory."""
        _, division = self.divide()
        self.recipes.evaluation("")
        with TemporaryDirectory(prefix="palate-rounds-") as directory:
            for name, recipe, train in self._stand_ins(division, Path(directory)):
                told = tell(train, recipe, Path(directory) / "told" / name)
                if told.short:
                    raise MachineError(f"{name}: {told.short}")

    def estimate(self) -> str:
        """What it will take, from two steps of each stage of the first round."""
        data, division = self.divide()
        seconds: dict[str, float | None] = {}
        lines = []
        with TemporaryDirectory(prefix="palate-rounds-") as directory:
            for name, recipe, train in self._stand_ins(division, Path(directory)):
                found = foresee(train, recipe)
                seconds[name] = found.seconds
                lines += [f"{name}: {line}" for line in found.lines[-1:]]
        rounds, evaluated = self.recipe.rounds, self.recipes.evaluation("")
        controls = rounds - 1 if self.recipe.control else 0
        shares = rounds * (rounds + 1) // 2 if self.recipe.labels == "all" else rounds  # of what one round is judged on
        times = {"sample": rounds, "judge": rounds, "reward": shares, "policy": rounds + controls}
        if not self.recipes.learns_a_reward:
            times["policy"] = shares + controls
        if not self.recipes.asks_a_model:
            del times["judge"]
        known = [(seconds.get(name), count) for name, count in times.items()]
        asked = (1 + rounds + controls) * len(data["held_out"].records) * evaluated.responses_per_prompt
        if self.recipes.asks_a_model and "judge" not in seconds:
            lines.append("judge: the model runs elsewhere, not timed")
        lines.append(f"measuring: {asked:,} responses of {1 + rounds + controls} policies, not timed")
        whole = sum(each * count for each, count in known if each is not None)
        missing = "" if all(each is not None for each, _ in known) else ", as far as it could be timed"
        beside = f" and {controls} of the control" if controls else ""
        waits = ", without waiting for people" if self.recipe.labelers == "people" else ""
        lines.append(f"{rounds} rounds{beside}: about {duration(whole)}{missing}{waits}")
        return "\n".join(lines)

    def _stand_ins(self, division: Division, directory: Path) -> Iterator[tuple[str, Any, Train]]:
        """The stages of the first round on what will be there; responses and reward model are made up.

        Responses are taken to be as long as they may be.
        """
        recipes = RoundRecipes(self.recipe, directory, self.source)
        (directory / "round-1").mkdir(exist_ok=True)
        stand_in = Chain(directory, self.seed, frozen_layers=self.frozen_layers)
        stand_in.write("round-1/prompts.jsonl", division.rounds[0])
        sample = recipes.sample(1)
        yield "sample", sample, self._train("sample")
        longest = _as_long_as(load_chat(self.recipe.model), self.recipe.sampling.max_new_tokens)
        responses = tuple(Response(text=f"{number}{longest}") for number in range(sample.responses_per_prompt))
        if self.recipes.asks_a_model:
            (directory / "round-1" / "samples").mkdir()
            given = [Candidates(prompt=prompt, responses=responses) for prompt in division.rounds[0]]
            stand_in.write("round-1/samples/candidates.jsonl", given)
            judge = recipes.judge(1)
            read_constitution(judge.constitution)
            if judge.endpoint is None:
                yield "judge", judge, self._train("judge")
            else:  # whose key is looked for
                EndpointClient(judge.endpoint, judge.model, directory)
        ranked = list(combinations(responses, 2)) if self.recipes.asks_a_model else [responses]  # it judges pairs
        rankings = [
            Ranking(prompt=prompt, responses=each, ranks=tuple(range(1, len(each) + 1)))
            for prompt in division.rounds[0]
            for each in ranked
        ]
        stand_in.write("round-1/rankings.jsonl", rankings)
        if recipes.learns_a_reward:
            yield "reward", _large_enough(recipes.reward(1), rankings), self._train("reward")
            recipe = recipes.improve(1, "", judged_until=1)
            learned = recipe.rewards[0].model_copy(update={"model": self.recipe.model})  # of the size that it will have
            recipe = recipe.model_copy(update={"rewards": (learned, *recipe.rewards[1:]), "chat_template": ""})
        else:
            recipe = _large_enough(recipes.improve(1, "", judged_until=1), rankings)
        yield "policy", recipe, self._train(recipes.improving.name)

    def _go_further(self) -> None:
        """More rounds are asked for, and nothing else: the recipe that is there becomes this one.

        Raises:
            RecipeError: the prompts were divided over the rounds that were asked for first.
        """
        path = self.out / "recipe.toml"
        before = load_recipe(RoundsRecipe, path)
        further = before.model_copy(update={"rounds": self.recipe.rounds})
        if further != self.recipe or self.recipe.rounds <= before.rounds:
            return
        if not self.recipe.prompts_per_round:
            raise RecipeError(
                f"{self.out}: all prompts were divided over {before.rounds} rounds, none are left for more: name "
                "another --out, with prompts_per_round"
            )
        disk.write_text(path, tomli_w.dumps(self.recipe.model_dump(exclude_none=True)))
        lineage.reopen(self.out)

    def _put_down(self, run: Run, data: dict[str, Read[Prompt]], division: Division) -> None:
        """The prompts of every round, and what of them is not used."""
        for read in data.values():
            for line in (*read.remarks, *str(read.rejected).splitlines()):
                run.note(line)
        if division.held_out:
            run.note(f"prompts: {division.held_out} are about conversations that are measured on, and train nothing")
        if division.unused:
            run.note(f"prompts: {division.unused} are in no round (prompts_per_round)")
        for number, prompts in enumerate(division.rounds, start=1):
            (self.out / f"round-{number}").mkdir(exist_ok=True)
            self.write(f"round-{number}/prompts.jsonl", prompts)
        self.write("held_out_prompts.jsonl", data["held_out"].records)

    # Below.

    def _train(self, command: str) -> Train:
        """The loop of a stage."""
        stage = next(each for each in STAGES if each.name == command)
        found: Train = getattr(import_module(stage.module), stage.function)
        return found

    def _held_out(self, recipe: Any, run: Run) -> Any:
        """The recipe with a larger share for validation, where little data leaves none."""
        found = _large_enough(recipe, read_rankings(recipe.data).records)
        if found.holdout != recipe.holdout:
            run.note(f"holdout.fraction = {found.holdout.fraction:g}: of so few prompts a smaller share would be none")
        return found

    def _told(self, number: int) -> Round:
        here = self.out / f"round-{number}"
        files = self.recipes.judgements(number)
        counted = sum(Path(file).read_text(encoding="utf-8").count("\n") for file in files)
        accuracy = Estimate(None)
        if self.recipes.learns_a_reward:
            learned = json.loads((here / "reward" / "report.json").read_text(encoding="utf-8"))
            accuracy = Estimate(learned["accuracy"], learned["accuracy_low"], learned["accuracy_high"])
        control = here / "control_answers.jsonl"
        return Round(
            number=number,
            labels=Labels.read(here / "labels.json"),
            learned_from=counted,
            accuracy=accuracy,
            answers=Kept.read(here / "answers.jsonl"),
            control=Kept.read(control) if number > 1 and self.recipe.control else None,
        )

    def _is_over(self, number: int) -> bool:
        """Everything of a round is there; what is made last tells."""
        last = "control_answers.jsonl" if number > 1 and self.recipe.control else "answers.jsonl"
        return (self.out / f"round-{number}" / last).exists()

    def _say_where(self, run: Run, number: int) -> None:
        """Which round of how many, and for how long all of them will go on."""
        done = [took for took in self._took if took > 1.0]  # what was there already took no time
        rest = self.recipe.rounds - number + 1
        left = f", about {duration(sum(done) / len(done) * rest)} left" if done else ""
        run.say(f"== round {number} of {self.recipe.rounds}{left}")


def _large_enough(recipe: Any, rankings: Sequence[Ranking]) -> Any:
    """The recipe with a share for validation that is not empty."""
    return recipe.model_copy(update={"holdout": large_enough(rankings, recipe.holdout)})


def _as_long_as(chat: Chat, num_tokens: int) -> str:
    """A text of at most so many tokens, the end of the turn among them, and of hardly fewer."""
    words = num_tokens
    while words > 1 and len(chat.response_tokens(" so" * words)) > num_tokens:
        words -= max(1, words // 10)
    return " so" * words
