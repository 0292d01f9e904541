"""Each stage against its limit on this machine: receive, decode, preprocess, predict, commit; and what a film costs in
the database with ever more rows in it."""

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import films
import numpy as np
import sqlalchemy as sa
from durable import Bare, MeddOn, empty_database, messages_of, rate
from images import make
from pydicom import dcmread
from query import load_postgresql, load_sqlite, make_studies, postgresql
from tables import arguments, machine, ratio, report, spread

from medd import pipeline, settings
from medd.classify.classifier import Input, prepare
from medd.imaging.grayscale import display
from medd.imaging.isolated import Isolated
from medd.imaging.pixels import load
from medd.imaging.preprocess import brightness, preprocess
from medd.plan.ledger import Ledger
from medd.store.database import Database, upgrade
from medd.testing import radiograph

Rounds = dict[str, list[float]]
SIDE = 2048
CORES = os.cpu_count() or 1


def seconds_of(
    call: Callable[[], object], least_s: float = 0.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The median of several calls after a first one, five at least."""
    call()
    took: list[float] = []
    while len(took) < 5 or sum(took) < least_s:
        began = clock()
        call()
        took.append(clock() - began)
    return statistics.median(took)


# ---- Receive -----------------------------------------------------------------------------------------------------

#: Title, images, side, senders.
RECEIVING = (
    ("224×224, 1 sender", 300, 224, 1),
    ("224×224, 16 senders", 600, 224, 16),
    ("2048×2048, 1 sender", 40, SIDE, 1),
)


def receive(args, where: str, scratch: Path, server: str) -> None:
    rows = []
    for number, (title, count, size, senders) in enumerate(RECEIVING):
        folder = scratch / f"images-{number}"
        [made] = make(folder, max(senders, count // 10) if args.quick else count, size)
        messages = messages_of(sorted(made.iterdir()), scratch)
        shutil.rmtree(folder)
        for database, url in (("SQLite", ""), ("PostgreSQL", server)):
            if database == "PostgreSQL" and not server:
                continue
            taken: Rounds = defaultdict(list)
            for _ in range(args.rounds):
                for kind in (Bare, MeddOn):
                    taken[kind.name].append(rate(kind, url, messages, senders, scratch))
            both = taken["medd"], taken["bare"]
            rows.append([f"{title}, {database}", *map(spread, both), ratio(*both), "≥ 0.6×"])
            print(rows[-1], file=sys.stderr)
    header = ["images per second", "medd", "bare loop", "medd : bare loop", "bar"]
    report("Receive, against a bare loop", where, header, rows, args.output)


# ---- Decode ------------------------------------------------------------------------------------------------------


def decode(args, where: str, scratch: Path, spec) -> None:
    size, each = (512, 2 * CORES) if args.quick else (SIDE, 4 * CORES)
    paths = films.make(scratch, size)
    one = {kind: Isolated(f"films:{kind}", 1) for kind in ("alone", "whole")}
    many = {"alone": Isolated("films:alone"), "whole": Isolated("medd.classify.prepare:prepare_file")}
    taken: dict[str, Rounds] = defaultdict(lambda: defaultdict(list))
    try:
        for _ in range(args.rounds):
            for name, path in paths.items():
                items = {"alone": path, "whole": films.order(path, spec)}
                for kind, item in items.items():
                    one[kind].call(item)
                    taken[name][f"{kind}, CPU"].append(1000 * statistics.median(one[kind].map([item] * 4)))
                    many[kind].map([item] * CORES)
                    began = time.perf_counter()
                    found = many[kind].map([item] * each)
                    taken[name][kind].append(each / (time.perf_counter() - began))
                    if wrong := [one for one in found if isinstance(one, Exception)]:
                        sys.exit(f"bench: {name}: {wrong[0]}")
    finally:
        for isolated in (*one.values(), *many.values()):
            isolated.close()
    rows = []
    for name, by in taken.items():
        cpu = by["alone, CPU"], by["whole, CPU"]
        wall = by["whole"], by["alone"]
        shares = ["", ""] if name == "uncompressed" else [ratio(*cpu), ratio(*wall)]
        bar = "" if name == "uncompressed" else "≥ 0.8×"
        cells = [*(spread(one, 1) for one in cpu), shares[0], *(spread(one, 1) for one in wall), shares[1], bar]
        rows.append([name, *cells])
    header = [f"film of {size}×{size}", "decoder alone, ms of CPU", "whole road, ms of CPU", "decoder : whole road"]
    header += ["whole road, films/s on all cores", "decoder alone, films/s", "whole road : decoder", "bar"]
    report("Decode, against the decoder library alone", where, header, rows, args.output)


# ---- Preprocess --------------------------------------------------------------------------------------------------


def preprocessing(args, where: str, scratch: Path, spec) -> None:
    cv2.setNumThreads(1)
    path = films.make(scratch, SIDE, only="uncompressed")["uncompressed"]
    order, film, data = films.order(path, spec), dcmread(path), path.read_bytes()
    stored = np.frombuffer(film.PixelData, "<u2").reshape(SIDE, SIDE)
    table, image = np.linspace(0, 1, 1 << 16, dtype=np.float32), load(path)
    steps: dict[str, tuple[Callable[[], object], str, Callable[[], object]]] = {
        "verify": (
            lambda: films.verify(order),
            "SHA-256 of the bytes in memory",
            lambda: hashlib.sha256(data).digest(),
        ),
        "grey values": (lambda: display(stored, film), "one look-up for each pixel", lambda: cv2.LUT(stored, table)),
        "fit and normalise": (
            lambda: preprocess(image, spec),
            "`cv2.resize`, INTER_AREA",
            lambda: cv2.resize(image, (spec.size, spec.size), interpolation=cv2.INTER_AREA),
        ),
        "brightness": (lambda: brightness(image), "one look at each pixel", lambda: cv2.mean(image)),
    }
    taken: dict[str, Rounds] = defaultdict(lambda: defaultdict(list))
    for _ in range(args.rounds):
        for name, (mine, _, limit) in steps.items():
            taken[name]["medd"].append(1000 * seconds_of(mine, clock=time.process_time))
            taken[name]["limit"].append(1000 * seconds_of(limit, clock=time.process_time))
    rows = [
        [name, spread(by["medd"], 1), steps[name][1], spread(by["limit"], 1), ratio(by["limit"], by["medd"])]
        for name, by in taken.items()
    ]
    header = ["uncompressed film of 2048×2048", "medd, ms of CPU", "limit", "limit, ms of CPU", "limit : medd"]
    report("Preprocess, step by step", where, header, rows, args.output)


# ---- Predict -----------------------------------------------------------------------------------------------------


def flops(path: Path) -> tuple[float, float]:
    """Floating-point operations of one image in the convolutions and products of an ONNX network; the share of them in
    convolutions."""
    import onnx

    model = onnx.load(path)
    for entry in model.graph.input:
        entry.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*graph.value_info, *graph.input, *graph.output)
    } | {one.name: list(one.dims) for one in graph.initializer}
    conv = total = 0.0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not shapes.get(node.output[0]):
            continue
        out, weights = np.prod([max(1, n) for n in shapes[node.output[0]]]), shapes[node.input[1]]
        depth = np.prod(weights[1:]) if node.op_type == "Conv" else shapes[node.input[0]][-1]
        total += 2.0 * out * depth
        conv += 2.0 * out * depth * (node.op_type == "Conv")
    return total, conv / total


def predict(args, where: str, model, folder: Path) -> None:
    count, share = flops(folder / "model.onnx")
    side = 1024 if args.quick else 3072
    left, right = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (1, 2))
    taken: Rounds = defaultdict(list)
    sizes = (1, 8, 32)
    for _ in range(args.rounds):
        taken["product"].append(2.0 * side**3 / seconds_of(lambda: left @ right) / 1e9)
        for size in sizes:
            batch = np.random.default_rng(0).random((size, *model.bundle.preprocess.input_shape), np.float32)
            took = seconds_of(lambda batch=batch: model.explain(batch), 0.2 if args.quick else 1.0)
            taken[str(size)].append(size / took)
    rows = []
    for size in sizes:
        reached = [rate * count / 1e9 for rate in taken[str(size)]]
        limit = [1e9 * one / count for one in taken["product"]]
        cells = [spread(taken[str(size)]), spread(limit), spread(reached), ratio(reached, taken["product"])]
        rows.append([str(size), *cells])
    note = (
        f"Model {model.bundle.ref}: {count / 1e6:.1f} million floating-point operations an image, {share:.0%} of them "
        f"in convolutions. A product of two {side}×{side} float32 matrices: {spread(taken['product'])} GFLOP/s. {where}"
    )
    header = ["images at a time", "images/s", "at the product's rate", "GFLOP/s", "network : product"]
    report("Predict, against the matrix product", note, header, rows, args.output)


# ---- Commit ------------------------------------------------------------------------------------------------------


def smallest(database: Database) -> Callable[[], float]:
    """Commits one small row each time it is called; returns seconds."""
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE smallest (id BIGINT PRIMARY KEY)"))
    raw = database.engine.raw_connection()
    statement = f"INSERT INTO smallest VALUES ({'?' if database.is_sqlite else '%s'})"
    numbers = iter(range(10**9))
    if not database.is_sqlite:
        raw.driver_connection.autocommit = True

    def commit() -> float:
        began = time.perf_counter()
        raw.cursor().execute(statement, (next(numbers),))
        return time.perf_counter() - began

    return commit


def fill(database: Database, count: int) -> None:
    """So many films of a year, each with its job done."""
    (load_sqlite if database.is_sqlite else load_postgresql)(database, count)
    with database.write() as connection:
        done = "INSERT INTO job (kind, instance_id, state) SELECT 'classify', id, 'done' FROM instance"
        connection.execute(sa.text(done))
        if not database.is_sqlite:  # ids were given, not drawn
            for table in ("instance", "prediction"):
                top = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                connection.execute(sa.text(top))
    make_studies(database)


def commit(args, where: str, scratch: Path, server: str, known, model) -> None:
    film = prepare(radiograph(0, size=256), model.bundle.preprocess)
    assert isinstance(film, Input)
    counts = sorted({count for count in (1000, 100_000, args.rows) if count <= args.rows})
    for name in ("SQLite", "PostgreSQL") if server else ("SQLite",):
        with ExitStack() as stack:
            ledgers, least = {}, {}
            for count in counts:
                url = f"sqlite:///{scratch / f'{count}.db'}"
                if name == "PostgreSQL":
                    url = stack.enter_context(empty_database(server))
                database = Database(url)
                upgrade(database)
                fill(database, count)
                least[count] = smallest(database)
                ledgers[count] = Ledger(database, known, model, film)
                stack.callback(ledgers[count].close)
                print(f"{name}: {count} rows", file=sys.stderr)
            taken: dict[int, Rounds] = defaultdict(lambda: defaultdict(list))
            for number in range(args.rounds + 1):
                for count, ledger in ledgers.items():
                    by = taken[count] if number else defaultdict(list)
                    by["smallest"].append(1000 * statistics.median(least[count]() for _ in range(50)))
                    by["insert"].append(1000 * statistics.median(ledger.insert(1) for _ in range(64)))
                    by["score 32"].append(1000 * (ledger.score(32) + ledger.score(32)) / 64)
                    singles = []
                    for _ in range(16):
                        ledger.insert(1)
                        singles.append(1000 * ledger.score(1))
                    by["score 1"].append(statistics.median(singles))
                    by["film"].append(by["insert"][-1] + by["score 32"][-1])
            rows = []
            for count, by in taken.items():
                cells = [spread(by[key], 2) for key in ("smallest", "insert", "score 1", "score 32", "film")]
                first = taken[counts[0]]["film"]
                rows.append([f"{count:,}", *cells, ratio(by["smallest"], by["insert"]), ratio(by["film"], first)])
        header = ["films in the database", "smallest transaction", "a film comes in", "claim and result, one film"]
        header += ["the same, of 32 at a time", "comes in and result", "smallest : comes in", "against the first row"]
        report(f"Commit, ms a film, {name}", where, header, rows, args.output)


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    stages = ("receive", "decode", "preprocess", "predict", "commit")
    parser.add_argument("--stage", action="append", choices=stages, help="only these (default: all)")
    parser.add_argument(
        "--rows", type=int, default=100_000, help="films in the fullest database (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.rows = 1, min(args.rows, 5000)
    wanted = args.stage or stages
    # Decoders look for films.py too.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    scratch = Path(tempfile.mkdtemp(prefix="medd-bench-", dir=args.scratch))
    scratch.chmod(0o711)  # PostgreSQL's user must reach its folder in it
    known = settings.load(scratch / "home")
    model, _ = pipeline.load_model(known)
    folder = next(Path(films.ROOT, "plugins").glob(f"*/bundles/{model.bundle.ref.replace('/', '-')}"))
    where = f"Median (lowest–highest) of {args.rounds} interleaved rounds. {machine(args.scratch)}."
    try:
        with ExitStack() as stack:
            has_server = shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
            is_asked = {"receive", "commit"} & set(wanted)
            server = stack.enter_context(postgresql(scratch)) if has_server and is_asked else ""
            if "receive" in wanted:
                receive(args, where, scratch, server)
            if "decode" in wanted:
                decode(args, where, scratch, model.bundle.preprocess)
            if "preprocess" in wanted:
                preprocessing(args, where, scratch, model.bundle.preprocess)
            if "predict" in wanted:
                predict(args, where, model, folder)
            if "commit" in wanted:
                commit(args, where, scratch, server, known, model)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
