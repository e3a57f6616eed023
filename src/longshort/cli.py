"""The command line: `longshort VERB …`. Each verb is a function of the library with its arguments; nothing more.

Nothing heavy is imported before a verb runs, so `--help` answers at once.
"""

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from longshort import __version__, config
from longshort.config import PRESETS, TrainConfig, suggest, xLSTMConfig

Verb = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest name suggested for a wrong one."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(
                action, f"no {value!r}.{suggest(value, action.choices)} There are: {', '.join(action.choices)}"
            )

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse every argument; an unknown flag is an error that names the nearest."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            verb = parsed.parser
            near = suggest(unknown[0].split("=")[0], verb._option_string_actions)
            verb.error(f"no such argument: {unknown[0]}.{near} See {verb.prog} --help.")
        return parsed


# ---- flags from settings ---------------------------------------------------------------------------------------------


def explanations(settings: type) -> dict[str, str]:
    """The sentence under each field of a settings class, as written in its source."""
    source = ast.parse(inspect.getsource(config))
    body = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == settings.__name__).body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def names(text: str) -> Any:
    """`[7:1]`, or mixers separated by commas."""
    return text if text.startswith("[") else tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    return tuple(int(part) for part in text.split(",") if part)


def parser_of(kind: Any) -> Callable[[str], Any]:
    """How a flag of this type is read."""
    text = str(kind)
    if "tuple[str" in text:
        return names
    if "tuple[int" in text:
        return numbers
    return next((each for each in (int, float) if each.__name__ in text), str)


def add_settings(parser: argparse.ArgumentParser, settings: type, title: str, without: Sequence[str]) -> None:
    """A flag for every field of a settings class. A flag not given is absent, so that defaults stay in one place."""
    group, told = parser.add_argument_group(title), explanations(settings)
    for field in fields(settings):
        if field.name in without:
            continue
        flag, text = "--" + field.name.replace("_", "-"), told[field.name].replace("%", "%%")
        default = "" if field.default in (MISSING, None, ()) else f" [{field.default!r}]".replace("%", "%%")
        if isinstance(field.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            reader = parser_of(field.type)
            shown = {"names": "KINDS", "numbers": "N,N"}.get(reader.__name__, reader.__name__.upper())
            group.add_argument(flag, type=reader, metavar=shown, default=argparse.SUPPRESS, help=text + default)


def chosen(arguments: argparse.Namespace, settings: type, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a settings class that were given as flags."""
    return {
        f.name: getattr(arguments, f.name) for f in fields(settings) if f.name in arguments and f.name not in without
    }


# ---- verbs -----------------------------------------------------------------------------------------------------------


def demo(arguments: argparse.Namespace) -> None:
    from longshort.demo import run_demo

    run_demo(arguments.folder)


def hand(arguments: argparse.Namespace) -> None:
    """The page; with a name or a file, one exercise; `check` and `show` are the two that make none."""
    from longshort.byhand.renderings import open_page, write_exercise

    if arguments.what in ("check", "show"):
        return {"check": hand_check, "show": hand_show}[arguments.what](arguments)
    if arguments.target is not None:
        arguments.parser.error(f"what is {arguments.target!r} for? A second word follows check or show alone")
    ending = Path(arguments.out).suffix.lower() if arguments.out else ""
    if not arguments.out:
        refuse(arguments, "goes with --out FILE", "key", "paper", "overwrite")
    else:
        refuse(arguments, "prints, and --out writes a file: give one of them", "text")
    if ending != ".pdf":
        refuse(arguments, "goes with a .pdf", "paper")
    if ending == ".html":
        refuse(arguments, "is not for a page: it has the answers too, and shows them when asked", "key")
    exercise = chosen_exercise(arguments)
    if arguments.out:
        options = {"key": arguments.key, "paper": arguments.paper or "a4", "overwrite": arguments.overwrite}
        print(f"written: {write_exercise(arguments.out, exercise, **options)}")
    elif arguments.text or (arguments.what and not sys.stdin.isatty()):
        from longshort.byhand.terminal import print_all

        print_all(exercise)
    elif arguments.what:
        from longshort.byhand.terminal import walk

        walk(exercise)
    else:
        open_page(exercise)


HAND_FLAGS = (
    "key",
    "text",
    "paper",
    "overwrite",
    "decimals",
    "new",
    "size",
    "steps",
    "from",
    "block",
    "units",
    "prompt",
)


def refuse(arguments: argparse.Namespace, why: str, *flags: str) -> None:
    """Stop with a message if one of these flags was given: none is ever ignored."""
    for flag in flags:
        name = {"from": "source"}.get(flag, flag)
        if name in arguments and (name == "decimals" or getattr(arguments, name) not in (None, False)):
            arguments.parser.error(f"--{flag} {why}")


def hand_check(arguments: argparse.Namespace) -> None:
    from longshort.byhand.checker import check, read_answer_file

    refuse(arguments, "has nothing to do with check: the file says which exercise it is", *HAND_FLAGS, "out")
    if not arguments.target:
        arguments.parser.error("check what? Give the .xlsx or .json file with the answers")
    print(check(*read_answer_file(Path(arguments.target))))


def hand_show(arguments: argparse.Namespace) -> None:
    from longshort.lessons import LESSONS, picture_format

    refuse(arguments, "has nothing to do with show", *HAND_FLAGS)
    if arguments.target not in LESSONS:
        which = (
            f"no lesson {arguments.target!r}.{suggest(arguments.target, LESSONS)}" if arguments.target else "show what?"
        )
        arguments.parser.error(f"{which} There are: {', '.join(LESSONS)}")
    if arguments.out:
        picture_format(arguments.out)  # a wrong ending is told before the work, not after it
    lesson = LESSONS[str(arguments.target)]()
    print(lesson)
    if arguments.out:
        lesson.plot(arguments.out)
        print(f"picture: {arguments.out}")


def chosen_exercise(arguments: argparse.Namespace) -> Any:
    """The exercise that the flags describe: built in, new from a seed, or from a model."""
    from longshort.byhand import exercise

    name = arguments.what or "lstm"
    sizes = dict(arguments.size or ()) | ({"T": arguments.steps} if arguments.steps is not None else {})
    changes = {"decimals": arguments.decimals} if "decimals" in arguments else {}
    if arguments.source:
        from longshort.byhand.from_layer import exercise_from_checkpoint

        if arguments.new is not None or arguments.size or arguments.what:
            arguments.parser.error(
                "--from takes the numbers of a model: leave out the exercise's name, --new and --size"
            )
        kept = {"block": arguments.block, "text": arguments.prompt, "units": arguments.units, "steps": arguments.steps}
        return exercise_from_checkpoint(arguments.source, **{k: v for k, v in kept.items() if v is not None}, **changes)
    refuse(arguments, "goes with --from, which takes the numbers of a model", "block", "prompt", "units")
    if arguments.new is not None:
        from longshort.byhand.generator import generate

        return generate(name, arguments.new, **changes, **sizes)
    if sizes:
        arguments.parser.error("other sizes need other numbers: add --new SEED")
    return exercise(name).changed(**changes) if changes else exercise(name)


def size(text: str) -> tuple[str, int]:
    """A named size, as in H=3."""
    name, _, length = text.partition("=")
    if not length.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: write a size as H=3")
    return name, int(length)


def decimals(text: str) -> int | None:
    """A number of decimals, or exact."""
    if text != "exact" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0 to 9, or exact")
    return None if text == "exact" else int(text)


def train(arguments: argparse.Namespace) -> None:
    from longshort.files import about, read_settings
    from longshort.training import train

    folder = Path(arguments.folder)
    base, path = TrainConfig(), folder / "config.json"
    if arguments.resume and path.exists():
        with about(path):
            base = TrainConfig.from_dict(read_settings(path))
    shape = PRESETS[arguments.preset] if arguments.preset else base.model
    model = shape.changed(**chosen(arguments, xLSTMConfig, ["vocab_size"]))
    settings = replace(base, model=model, **chosen(arguments, TrainConfig, ["model"]))
    train(settings, folder, resume=arguments.resume)
    print(f"done: {folder}. Try: longshort generate {folder} --prompt 'Once more'")


def generate(arguments: argparse.Namespace) -> None:
    from longshort.checkpoints import load
    from longshort.data import load_tokenizer, read_text
    from longshort.generation import Sampling, Writer, load_reading, peak_memory, save_reading

    sampling = Sampling(
        temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p, seed=arguments.seed
    )
    model = load(arguments.model, device=arguments.device)
    tokenizer = load_tokenizer(arguments.tokenizer or arguments.model)
    prompts = list(arguments.prompt or [])
    if arguments.prompt_file:
        prompts.append(read_text(Path(arguments.prompt_file)))
    reading = load_reading(arguments.load_state, model) if arguments.load_state else None
    prompts = prompts or ([""] if reading else ["\n"])
    writer = Writer(model, tokenizer, prompts, arguments.max_tokens, sampling, arguments.stop or (), reading)
    if len(prompts) == 1:
        print(prompts[0] if len(prompts[0]) <= 400 else "…" + prompts[0][-400:], end="", flush=True)
        for _, piece in writer:
            print(piece, end="", flush=True)
        print()
    else:
        for _ in writer:
            continue
        for prompt, text in zip(prompts, writer.texts, strict=True):
            print(f"--- {prompt}{text}")
    if arguments.save_state:
        assert writer.reading is not None
        save_reading(arguments.save_state, writer.reading, model)
    for what in ("prompt", "generation"):
        tokens, speed = (writer.stats.get(f"{what}_{x}", 0) for x in ("tokens", "tokens_per_second"))
        print(f"{what}: {tokens} tokens, {speed:,.1f} tokens/s", file=sys.stderr)
    print(f"peak memory: {peak_memory() / 2**20:,.0f} MiB", file=sys.stderr)


def evaluate(arguments: argparse.Namespace) -> None:
    import tempfile

    from longshort.checkpoints import load
    from longshort.data import find_tokens, load_tokenizer, xz_bits
    from longshort.evaluation import evaluate

    model = load(arguments.model, device=arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        data = find_tokens(arguments.model, arguments.data, load_tokenizer(arguments.model), scratch)
        scored = evaluate(model, data.heldout, data.tokenizer)
        name, bits = data.notes["name"], scored.bits_per_character
        print(f"held-out text: the last {scored.characters:,} characters of {name}, {scored.tokens:,} tokens")
        print(f"model          {bits:.3f} bits per character, perplexity {scored.perplexity:.2f} a token")
        xz = xz_bits(data)
        print(f"xz -9e         {xz.alone:.3f} bits per character alone, {xz.primed:.3f} primed with the training text")


def data(arguments: argparse.Namespace) -> None:
    from longshort.data import build_tokenizer, load_corpus, prepare

    corpus = load_corpus(arguments.source)
    tokens = prepare(corpus, build_tokenizer(arguments.tokenizer, corpus, arguments.vocab_size), arguments.out)
    for part, text in [("train", tokens.train), ("held-out", tokens.heldout)]:
        print(f"{part:9} {len(text):>12,} tokens, {len(text.starts)} documents begin in it")
    print(f"written to {arguments.out}; train on them with: longshort train FOLDER --data {arguments.out}")


def convert(arguments: argparse.Namespace) -> None:
    from longshort.checkpoints import export, load
    from longshort.data import tokenizer_file
    from longshort.files import write_atomically, write_text

    model = load(arguments.source)
    export(model, arguments.out, arguments.to)
    if tokenizer := tokenizer_file(arguments.source):
        text = tokenizer.read_text(encoding="utf-8")
        write_atomically(Path(arguments.out) / "tokenizer.json", lambda file: write_text(file, text))
    print(f"{arguments.source} -> {arguments.out} ({arguments.to}, {model.num_parameters():,} weights)")


def doctor(arguments: argparse.Namespace) -> None:
    from longshort.checking import selfcheck
    from longshort.doctor import report

    print(report(), flush=True)
    if not arguments.quick:
        checked = selfcheck()
        print(f"\n{checked}")
        if not checked:
            sys.exit(1)


def add_hand(each: argparse.ArgumentParser) -> None:
    """The flags of `longshort hand`."""
    from longshort.byhand import EXERCISES  # light: no torch

    each.epilog = "longshort hand alone opens the page. check FILE marks answers; show LESSON is for teachers."
    what = f"an exercise to step through: {', '.join(EXERCISES)}; or check, or show"
    each.add_argument(
        "what", nargs="?", type=str.lower, choices=(*EXERCISES, "check", "show"), metavar="WHAT", help=what
    )
    each.add_argument(
        "target",
        nargs="?",
        metavar="FILE|LESSON",
        help="for check: answers, .xlsx or .json; for show: gates, gradient, overflow or parallel",
    )
    each.add_argument(
        "--out",
        metavar="FILE",
        help="write the exercise to a .html, .xlsx, .pdf, .md or .json file (for show: a picture)",
    )
    each.add_argument(
        "--key", action="store_true", help="with the answers: filled in, or in a spreadsheet on sheets to be seen"
    )
    each.add_argument("--overwrite", action="store_true", help="write over a .xlsx or .json, answers and all")
    each.add_argument("--text", action="store_true", help="print all of it, answers too, instead of stepping through")
    each.add_argument(
        "--decimals",
        type=decimals,
        metavar="N",
        default=argparse.SUPPRESS,
        help="round what is written down to N decimals; or exact",
    )
    each.add_argument("--paper", choices=("a4", "letter"), metavar="KIND", help="of a .pdf: a4 or letter [a4]")
    group = each.add_argument_group("a new exercise")
    group.add_argument(
        "--new", type=int, metavar="SEED", help="other numbers, without rounding ties; the same for the same seed"
    )
    group.add_argument(
        "--size", type=size, action="append", metavar="H=3", help="a size of a new exercise; may be given several times"
    )
    group.add_argument("--steps", type=int, metavar="T", help="time steps, of a new exercise or from a model")
    group = each.add_argument_group("an exercise from a model of yours")
    group.add_argument(
        "--from", dest="source", metavar="MODEL", help="a run, a checkpoint folder, or a .safetensors file"
    )
    group.add_argument(
        "--block", metavar="NAME", help="which part of the model [its first sLSTM, else LSTM, mLSTM, RNN]"
    )
    group.add_argument("--units", type=numbers, metavar="N,N", help="which units are worked [the first few]")
    group.add_argument("--prompt", metavar="TEXT", help="what the model reads")


# ---- the table of verbs ----------------------------------------------------------------------------------------------


def build() -> Parser:
    """The whole command line."""
    parser = Parser(prog="longshort", description="From an LSTM worked by hand to an xLSTM language model.")
    parser.add_argument("--version", action="version", version=f"longshort {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, run: Verb, summary: str) -> argparse.ArgumentParser:
        each = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        each.set_defaults(run=run, parser=each)
        return each

    each = verb("demo", demo, "the whole road in a few minutes: by hand, training, evaluation, writing")
    each.add_argument("--folder", default="runs/demo", help="where the run is kept [runs/demo]")

    each = verb(
        "hand", hand, "work an LSTM, sLSTM, mLSTM or xLSTM block by hand: a page, sheets, paper, answers checked"
    )
    add_hand(each)

    each = verb("train", train, "train a language model on text")
    each.add_argument("folder", help="where the run is kept: settings, metrics, checkpoints, model card")
    each.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, as if it had never stopped"
    )
    each.add_argument("--preset", choices=list(PRESETS), metavar="NAME", help=f"a size: {', '.join(PRESETS)}")
    add_settings(each, TrainConfig, "training", without=["model"])
    add_settings(each, xLSTMConfig, "the model's shape (each overrules the preset)", without=["vocab_size"])

    each = verb("generate", generate, "continue prompts with a trained model")
    each.add_argument("model", help="a run, a checkpoint folder, or a .safetensors file")
    each.add_argument("--prompt", action="append", help="text to continue; give several for a batch")
    each.add_argument("--prompt-file", metavar="FILE", help="a text file to read first (a book, say)")
    each.add_argument("--tokenizer", metavar="FOLDER", help="where the tokenizer.json is, if not beside the model")
    each.add_argument("--max-tokens", type=int, default=200, metavar="N", help="at most so many tokens [200]")
    each.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: always the likeliest token [0.8]")
    each.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    each.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that hold probability P")
    each.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    each.add_argument("--seed", type=int, default=0, metavar="N", help="decides the draw [0]")
    each.add_argument("--save-state", metavar="FILE", help="keep all that was read and written")
    each.add_argument("--load-state", metavar="FILE", help="go on from what was kept")
    each.add_argument("--device", default="cpu", help="cpu, cuda or auto [cpu]")

    each = verb("eval", evaluate, "bits per character on held-out text, beside xz -9e")
    each.add_argument("model", help="a run, or a checkpoint folder with its tokenizer.json")
    each.add_argument("--data", metavar="SOURCE", help="other text: a file, a folder, a token folder, or shakespeare")
    each.add_argument("--device", default="cpu", help="cpu, cuda or auto [cpu]")

    each = verb("data", data, "turn text into token files")
    each.add_argument("source", help="a text file, a folder of .txt and .md files, or shakespeare")
    each.add_argument("--out", required=True, metavar="FOLDER", help="where the token files go")
    each.add_argument("--tokenizer", default="byte", metavar="KIND", help="byte, char or bpe [byte]")
    each.add_argument("--vocab-size", type=int, default=4096, metavar="N", help="how many tokens a bpe learns [4096]")

    each = verb(
        "convert", convert, "read a checkpoint, ours or NX-AI's or Hugging Face's, and write it in another format"
    )
    each.add_argument("source", help="a checkpoint folder or .safetensors file; its format is recognised")
    each.add_argument("out", help="the folder to write")
    formats = "longshort, hf, nxai-large, nxai-large-fused, nxai-small or nxai-small-cuda"
    each.add_argument("--to", default="longshort", metavar="FORMAT", help=f"{formats} [longshort]")

    each = verb(
        "doctor", doctor, "what this machine has, which kernels run on it, and whether they compute what they should"
    )
    each.add_argument("--quick", action="store_true", help="leave out the check of the kernels, which takes seconds")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb. What went wrong is told in a line; the exit status is 1, 2 for a wrong call, 130 for Ctrl-C."""
    parsed = build().parse_all(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed.run(parsed)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # somebody closed the pipe we print into
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        print(f"longshort: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if "allocate memory" not in str(error) and type(error).__name__ != "OutOfMemoryError":
            raise
        print("longshort: too little memory: a smaller model, batch or context needs less", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
