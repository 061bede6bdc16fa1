"""What `LotteryCLI` adds to `LightningCLI`: slots for callbacks, and the commands of rounds."""

from __future__ import annotations

import importlib
import sys
from argparse import SUPPRESS
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

import ltpl
import ltpl.callbacks
from ltpl.arguments import (
    TRUST,
    USUAL,
    add_options_over_runs,
    must_not_plan,
    named,
    with_classes,
    with_config_beside,
    with_options_of_the_run,
    with_values,
    without_trust,
)
from ltpl.checkpoint import hyper_parameters
from ltpl.compacted import BARE, Built, Compact, compact_checkpoint
from ltpl.following import commands, rehearse
from ltpl.mistakes import OneLine, explained, is_input, is_of_the_disk, naming, told
from ltpl.report import check, report
from ltpl.report.check import DIFFER
from ltpl.report.console import plain
from ltpl.report.verdicts import verdicts_as_text, write_verdicts
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.configured import Configured
from ltpl.rounds.finite import Astray, do_all
from ltpl.rounds.pace import brisk
from ltpl.rounds.plan import Plan, numbers
from ltpl.rounds.ranks import leads
from ltpl.rounds.run import is_dry, run_rounds
from ltpl.rounds.status import status
from ltpl.trust import Trust
from ltpl.vocabulary import OWN, SLOTS

if TYPE_CHECKING:
    from pytorch_lightning.cli import ArgsType, LightningArgumentParser
    from pytorch_lightning.cli import LightningArgumentParser as ParserOfEither
    from pytorch_lightning.cli import LightningCLI as CommandsOfEither
else:
    ParserOfEither = CommandsOfEither = object


class LotteryCommands(CommandsOfEither):
    """What `LotteryCLI` adds to the `LightningCLI` of either package.

    To subclass it for modules of `lightning.pytorch`:

        class MyCLI(LotteryCommands, lightning.pytorch.cli.LightningCLI):
            package = "lightning.pytorch"
    """

    package: str
    _typed: list[str]

    def __init__(self, *args: Any, **kwargs: Any):
        given = kwargs.get("args")
        self._given = sys.argv[1:] if given is None else given
        vars(self).setdefault("_typed", self._given)  # what goes on, where one command runs others
        self._made_with = args, dict(kwargs)
        self._experiment: Configured | None = None
        self._program = [x for x in (type(self), *args, *kwargs.values()) if isinstance(x, type)]
        self._trust: Trust | None = Trust.of(self._program, [given])
        parser = importlib.import_module(f"{self.package}.cli").LightningArgumentParser
        named = [x for x in self._given if x in self.subcommands()][:1]
        words = [x for x in self._given if isinstance(x, str)]
        command = {"command": "".join(named), "given": words}
        kwargs.setdefault("parser_class", type("Parser", (OneLine, parser), command))
        kwargs.setdefault("save_config_kwargs", {"overwrite": True})
        from_environment = {"default_env": True, "env_prefix": "LTPL"}
        kwargs["parser_kwargs"] = {**from_environment, **kwargs.get("parser_kwargs", {})}
        try:
            super().__init__(*args, **kwargs)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            follows = self._typed is not self._given  # and leaves it to the command it follows
            if is_input(error):
                line, code = naming(explained(str(error), self.parser), words), 2
            elif (isinstance(error, Astray) and not follows) or is_of_the_disk(error):
                line, code = told(error), 1
            else:
                raise
            if leads():
                line = f"{' '.join([self.parser.prog, *named])}: error: {plain(line)}"
                print(line, file=sys.stderr)
            sys.exit(code)

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Return the commands, each with the arguments that the parser does not ask for."""
        return {**{name: set() for name in OWN}, **super().subcommands()}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Add `--version` to what Lightning's command line knows."""
        kwargs.setdefault("dump_header", [f"ltpl=={ltpl.__version__}"])
        parser: LightningArgumentParser = super().init_parser(**kwargs)
        parser.add_argument("--version", action="version", version=f"ltpl {ltpl.__version__}")
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Add the commands; those that are not asked for go without their many options."""
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        added = parser.add_subcommands()
        named = [name for name in self.subcommands() if name in self._given]
        trainer: Any = self.trainer_class
        trainer = trainer if isinstance(trainer, type) else get_type_hints(trainer)["return"]
        self._kind_of_trainer = trainer
        asked = named or ({"-c", "--config"} & set(self._given) and list(self.subcommands()))
        for name in self.subcommands():
            description = OWN.get(name) or getattr(trainer, name).__doc__.split("\n")[0]
            options = {"description": description, **kwargs.get(name, {})}
            if name in asked:
                sub = self._prepare_subcommand_parser(trainer, name, **options)
            else:
                sub = self.parser_class(**options)
            self._subcommand_parsers[name] = sub
            added.add_subcommand(name, sub, help=description)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        if subcommand not in OWN:
            parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
            for name in vars(Plan(run="")):  # one config serves `fit` and `rounds`
                parser.add_argument(f"--{name}", type=Any, default=SUPPRESS, help=SUPPRESS)
            parser.add_argument("--trust", type=bool, default=SUPPRESS, help=TRUST)
            return parser
        self._subcommand_method_arguments[subcommand] = []
        make = self.parser_class if subcommand == "check" else self.init_parser
        parser = make(**kwargs)
        if subcommand == "rounds":
            parser.add_class_arguments(Plan)
        elif subcommand == "branch":
            parser.add_argument("run", help="Folder of the run.")
            parser.add_class_arguments(Branch)
            parser.add_argument("--trust", type=bool, default=SUPPRESS, help=TRUST)
        elif subcommand == "compact":
            parser.add_argument("checkpoint", help="A checkpoint, or the folder of a round.")
            parser.add_class_arguments(Compact, skip={"checkpoint"})
            parser.add_argument("--trust", type=bool, default=SUPPRESS, help=TRUST)
            for name in ("ckpt_path", "weights_only", *vars(Plan(run=""))):  # of `fit` and `rounds`
                parser.add_argument(f"--{name}", type=Any, default=SUPPRESS, help=SUPPRESS)
        else:
            add_options_over_runs(parser, subcommand)
            return parser
        self._add_arguments(parser)
        if subcommand == "compact":
            parser.set_defaults({"slim": {**USUAL["slim"], "init_args": {"amount": None}}})
        else:
            parser.set_defaults({slot: USUAL[slot] for slot in ("prune", "rewind")})
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the slots, before what Lightning adds."""
        callback = importlib.import_module(self.package).Callback
        group = parser.add_argument_group("Slots for callbacks: `null` switches one off")
        for slot, text in SLOTS.items():
            group.add_argument(f"--{slot}", type=callback | None, default=None, help=text)
        super().add_core_arguments_to_parser(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; a branch begins with the options of its run."""
        if not isinstance(self._given, list):
            super().parse_arguments(parser, args)
            return
        given, trusts = without_trust(self._given)
        self._trust = None if trusts else Trust.of(self._program, named(given))
        if (command := given[:1]) == ["branch"]:
            given = with_options_of_the_run(given, self._trust)
        elif command == ["compact"]:
            given = with_config_beside(given, self._trust)
        given = with_values(with_classes(given))
        if command and command[0] not in OWN:
            must_not_plan(given)
        try:
            self.config = parser.parse_args(given)
        except (UnicodeDecodeError, AttributeError, KeyError) as error:
            parser.error(f"The options cannot be read: {error}")
        trainer = self.config.get(f"{self.config.subcommand}.trainer")
        if isinstance(trainer, (str, int, float, list)):
            parser.error(f"trainer={trainer!r}: options of the Trainer are wanted.")

    def _parse_ckpt_path(self) -> None:
        """Let `fit` begin with the hyper-parameters of a checkpoint, which may name classes too."""
        command = self.config.get("subcommand")
        options = {} if command in (None, *OWN) else self.config[command]
        if not (path := options.get("ckpt_path")):
            return
        if options.get("weights_only", True) is None:  # Lightning would run what a remote one says
            options["weights_only"] = True
        if found := hyper_parameters(path, options.get("weights_only", True)):
            if self._trust is not None:
                self._trust.must_allow(found, path)
            super()._parse_ckpt_path()

    def _set_seed(self) -> None:
        if self.subcommand not in OWN:
            try:
                super()._set_seed()
            except ValueError as error:
                raise ValueError(f"seed_everything: {error}") from None

    def instantiate_classes(self) -> None:
        """Build model, data and Trainer; for rounds, when a round begins."""
        if self.subcommand not in OWN or self._experiment is not None:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the Trainer, with what is in the slots."""
        filled = {slot: self._get(self.config_init, slot) for slot in SLOTS}
        options = {**(self._get(self.config_init, "trainer") or {}), **kwargs}
        keys = self._parser(self.subcommand).callback_keys
        extra = [self._get(self.config_init, key) for key in keys]
        if self._experiment is not None:
            return self._experiment.trainer(options, filled, extra)
        if self.subcommand == "compact":
            in_rounds = isinstance(filled["prune"], ltpl.callbacks.NetworkSlimming)
            self._slim = filled["prune" if in_rounds else "slim"]
            return self._instantiate_trainer({**options, **BARE}, [])
        used = [callback for callback in filled.values() if callback is not None]
        return self._instantiate_trainer(options, [*used, *extra])

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        if "profiler" in config:  # a Trainer of the user's own making may not know it
            config = brisk(self.package, config)
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand not in OWN:
            super()._run_subcommand(subcommand)
            return
        getattr(self, f"before_{subcommand}", lambda: None)()
        getattr(self, f"_{subcommand}")(self.config[subcommand])
        getattr(self, f"after_{subcommand}", lambda: None)()

    def _rounds(self, options: Any) -> None:
        plan = Plan(**{name: options[name] for name in vars(Plan(run=""))})
        experiment = self._configured()
        seeds = plan.replicates(options.get("seed_everything"))
        if plan.branches or plan.only:
            parser = self._prepare_subcommand_parser(self._kind_of_trainer, "branch")
            rehearse(parser, experiment, plan, seeds)
        follow = [partial(self._follow, c) for c in commands(plan) if not is_dry(experiment)]
        do_all([partial(run_rounds, experiment, plan, seeds), *follow])

    def _follow(self, command: list[str]) -> None:
        """Run another command over the same classes; what is typed to go on stays the same."""
        args, kwargs = self._made_with
        other = object.__new__(type(self))
        other._typed = self._typed
        LotteryCommands.__init__(other, *args, **{**kwargs, "args": [*command, "--trust"]})

    def _branch(self, options: Any) -> None:
        branch = Branch(**{name: options[name] for name in vars(Branch(name="x"))})
        run_branch(self._configured(), branch, options["run"])

    def _status(self, options: Any) -> None:
        for run in options["runs"]:
            print(plain(status(run, options["verify"])))

    def _report(self, options: Any) -> None:
        runs, out = options["runs"], options["out"]
        if len(runs) > 1 and out is None:
            raise ValueError(f"{len(runs)} runs side by side need a folder of their own: --out.")
        print(report(runs, out, numbers(options["rounds"], "rounds") or None))

    def _check(self, options: Any) -> None:
        verdicts = check(options["runs"], options["config"])
        if options["out"] is not None:
            write_verdicts(verdicts, options["out"])
        print(verdicts_as_text(verdicts), end="")
        if DIFFER in [each.word for each in verdicts]:
            sys.exit(1)

    def _compact(self, options: Any) -> None:
        self.save_config_callback = None  # the small network gets a config of its own
        self._dump_config()
        super().instantiate_classes()
        compact = Compact(**{name: options[name] for name in Compact.__dataclass_fields__})
        built = Built(self.model, self.datamodule, self.trainer, self._slim, self.config_dump)
        print(plain(compact_checkpoint(built, compact)))

    def _configured(self) -> Configured:
        """Return what builds rounds from this command line."""
        self.save_config_callback: Any = None  # a round's folder gets its config from us
        self._dump_config()
        not_built = {*vars(Plan(run="")), *vars(Branch(name="x")), "config", "run"}
        config = {k: v for k, v in self.config_dump.items() if k not in not_built}
        self._experiment = Configured(self, self.package, config, [*SLOTS][2:])
        return self._experiment
