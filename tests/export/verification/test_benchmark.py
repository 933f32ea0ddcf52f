"""What `benchmark` reports is counted here again, without the code under test; no test is timed."""

import io
import json
import re
import subprocess
import sys
import types

import command_line
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from keras_vit.errors import InputError
from keras_vit.export.verification import benchmark_worker, litert_profiler, timing
from keras_vit.export.verification.benchmark import ROUNDS, ROW, benchmark, ratio, thread_counts
from keras_vit.export.verification.benchmark_report import pages
from keras_vit.export.verification.litert_profiler import parse_summary
from keras_vit.export.verification.timing import random_array


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A .tflite file as the stock converter makes it: ids and numbers in, two outputs, no signature."""
    random = np.random.default_rng(3)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        ids = tf.compat.v1.placeholder(tf.int32, [1, 3])
        numbers = tf.compat.v1.placeholder(tf.float32, [1, 5])
        words, weights = (tf.constant(random.normal(size=(n, 4)), tf.float32) for n in (7, 5))
        mixed = tf.cumsum(numbers @ weights, axis=1)  # XNNPACK has no CUMSUM
        inputs, outputs = [ids, numbers], [tf.nn.softmax(mixed), tf.gather(words, ids)]
        content = tf.compat.v1.lite.TFLiteConverter.from_session(session, inputs, outputs).convert()
        values = [np.array([[1, 0, 1]], np.int32), np.array([[0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)]
        answers = session.run(outputs, dict(zip(inputs, values, strict=True)))
    path = tmp_path_factory.mktemp("stock") / "stock.tflite"
    path.write_bytes(content)
    return path, values, answers


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def report(directory, stock, progress):
    paths = [directory / "float32.tflite", stock[0], directory / "cut.tflite"]
    return benchmark(paths, "1,2", 0.05, operators=True, progress=lambda *seen: progress.append(seen))


@pytest.fixture(scope="module")
def of_tensorflow(directory):
    paths = [directory / "keras" / "float32.keras", directory / "saved_model"]
    return benchmark(paths, [2], 0.05, operators=True)["models"]


def operators_in(path):
    """The operators of the main graph, read from the FlatBuffer."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [names[codes[op.opcodeIndex]] for op in model.subgraphs[0].operators]


def test_the_report_is_plain_json_with_a_row_for_each_model_and_number_of_threads(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["format"], report["rounds"], report["seconds"]) == (1, ROUNDS, 0.05)
    assert {"python", "ai-edge-litert"} <= set(report["versions"])
    assert [row["threads"] for row in report["models"]] == [1, 1, 1, 2, 2, 2]
    assert [row["name"].rpartition("/")[2] for row in report["models"]] == [
        "float32.tflite",
        "stock.tflite",
        "cut.tflite",
    ] * 2
    assert all(set(row) == set(ROW) for row in report["models"])


def test_sizes_are_those_of_the_files(report, of_tensorflow, directory, stock):
    files = [directory / "float32.tflite", stock[0], directory / "cut.tflite"]
    assert [row["bytes"] for row in report["models"]] == [file.stat().st_size for file in files] * 2
    assert of_tensorflow[0]["bytes"] == (directory / "keras" / "float32.keras").stat().st_size
    folder = (directory / "saved_model" / "1").rglob("*")
    assert of_tensorflow[1]["bytes"] == sum(file.stat().st_size for file in folder if file.is_file())


def test_every_model_is_measured_in_every_round(report, of_tensorflow):
    fine = [row for row in report["models"] if not row["error"]] + of_tensorflow
    assert len(fine) == 4 + 2
    for row in fine:
        assert row["runs"] >= ROUNDS * timing.LEAST
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
        assert row["ratio"] > 0
        assert row["memory_bytes"] > 50_000
    assert report["models"][0]["ratio"] == report["models"][3]["ratio"] == of_tensorflow[0]["ratio"] == 1.0


def test_a_keras_file_and_a_saved_model_have_no_operators(of_tensorflow):
    assert [row["kind"] for row in of_tensorflow] == ["keras", "saved_model"]
    for row in of_tensorflow:
        assert row["error"] is row["operators"] is row["delegated"] is row["profile"] is None


def test_a_damaged_model_is_a_row_with_the_reason(report):
    for row in (report["models"][2], report["models"][5]):
        assert row["error"].startswith("cannot be loaded by LiteRT: ")
        assert row["latency_ms_p50"] is row["memory_bytes"] is row["ratio"] is row["operators"] is None


def test_operators_are_those_in_the_file(report, directory, stock):
    ours, stocks = report["models"][:2]
    for row, path in ((ours, directory / "float32.tflite"), (stocks, stock[0])):
        expected = operators_in(path)
        assert row["operators"] == {name: expected.count(name) for name in set(expected)}
        assert sum(row["operators"].values()) == len(expected)
    assert ours["delegated"] == 1.0
    assert 0 < stocks["delegated"] < 1


def test_the_profiler_sees_what_is_inside_xnnpack_and_what_is_not(report):
    ours, stocks = report["models"][:2]
    for words, operator in (("Fully Connected", "FULLY_CONNECTED"), ("Softmax", "SOFTMAX")):
        found = [kind["count"] for kind in ours["profile"] if words in kind["name"]]
        assert sum(found) == ours["operators"][operator]
    assert all(kind["delegated"] and kind["ms"] >= 0 for kind in ours["profile"])
    assert ours["profile_run_ms"] > 0
    times = [kind["ms"] for kind in ours["profile"]]
    assert times == sorted(times, reverse=True)
    outside = {kind["name"]: kind["count"] for kind in stocks["profile"] if not kind["delegated"]}
    assert outside["CUMSUM"] == 1
    assert any("Fully Connected" in kind["name"] for kind in stocks["profile"] if kind["delegated"])


def test_sound_tflite_files_are_profiled_once(report):
    profiled = [row["profile"] is not None for row in report["models"]]
    assert profiled == [True, True, False, False, False, False]
    assert not any(row["profile_error"] for row in report["models"])


def test_progress_is_told_and_ends(progress):
    steps = 3 * (2 * (1 + ROUNDS) + 1)
    assert [(done, total) for _, done, total in progress] == [(i, steps) for i in range(steps)]
    assert progress[0][0].endswith("float32.tflite")


def test_the_worker_runs_a_file_without_a_signature(stock, monkeypatch):
    from ai_edge_litert.interpreter import Interpreter

    path, values, answers = stock
    assert not Interpreter(str(path)).get_signature_list()
    given = {value.dtype: value for value in values}
    monkeypatch.setattr(benchmark_worker, "random_array", lambda shape, dtype, name: given[np.dtype(dtype)])
    run, _ = benchmark_worker.tflite(path, 1)
    for got, expected in zip(sorted(run(), key=np.size), sorted(answers, key=np.size), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_worker_runs_the_model_and_not_something_else(directory, models):
    image = random_array([1, 8, 8, 3], np.float32, "image")
    model = models["float32"]
    mean, std = (np.float32(model.preprocessing[key]) for key in ("mean", "std"))
    expected = tf.nn.softmax(model((image / 255 - mean) / std)).numpy()
    np.testing.assert_allclose(
        benchmark_worker.tflite(directory / "float32.tflite", 1)[0]()[0], expected, atol=1e-5
    )
    np.testing.assert_allclose(
        benchmark_worker.keras(directory / "keras/float32.keras", 1)[0](), expected, atol=1e-5
    )
    answer = benchmark_worker.saved_model(directory / "saved_model/1", 1)[0]()
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_reaches_the_runtimes(directory, tmp_path, threads):
    code = (
        "import sys, json, tensorflow as tf\n"
        "from keras_vit.export.verification import benchmark_worker\n"
        "from ai_edge_litert import interpreter\n"
        "made = interpreter.Interpreter\n"
        "interpreter.Interpreter = lambda *a, **k: print('litert', k['num_threads']) or made(*a, **k)\n"
        "for kind, path in (('tflite', sys.argv[2]), ('saved_model', sys.argv[3])):\n"
        "    benchmark_worker.main({'path': path, 'kind': kind, 'threads': int(sys.argv[1])})\n"
        "print('tensorflow', tf.config.threading.get_intra_op_parallelism_threads())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(threads),
        directory / "float32.tflite",
        directory / "saved_model/1",
    ]
    output = subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    assert f"litert {threads}" in output.splitlines() and f"tensorflow {threads}" in output.splitlines()


def test_made_up_inputs():
    pixels = random_array([None, 8, 8, 3], "float32", "image")
    assert (
        pixels.shape == (1, 8, 8, 3) and pixels.dtype == np.float32 and 0 <= pixels.min() < pixels.max() < 1
    )
    assert random_array(["batch", 2], np.float16, "x").dtype == np.float16
    small = random_array([1, 1000], np.int8, "x")
    assert (small.min(), small.max(), small.dtype) == (-128, 127, np.int8)
    for dtype in (np.int32, np.int64, np.bool_):
        ids = random_array([-1, 1000], dtype, "ids")
        assert set(ids.flat) == {0, 1} and ids.shape == (1, 1000) and ids.dtype == dtype
    assert random_array([], np.float32, "scale").shape == ()
    with pytest.raises(InputError, match=r"input x has no fixed shape, \[1, 8, \?\]: export it for one size"):
        random_array([None, 8, -1], np.float32, "x")
    with pytest.raises(InputError, match="input x is of type <U5"):
        random_array([1], "<U5", "x")


def test_the_peak_of_memory_is_kept_after_the_memory_is_free_again():
    before = timing.start_of_peak_memory()
    np.ones(50_000_000, np.uint8)
    assert 45e6 < timing.peak_memory() - before < 80e6
    assert timing.start_of_peak_memory() < before + 25e6


def test_the_ratio_is_the_median_over_the_rounds():
    times = [[2, 2, 90], [900, 900, 900], [4.2], [8, 8]]  # a busy moment in the second round
    assert ratio(times, [[1, 1, 1], [300], [2], [4]]) == pytest.approx(2.05)
    assert ratio([[1], [3]], [[1], [3]]) == 1.0


def test_the_text_of_the_profiler():
    text = """\
=== Run Order ===
   [node type]  [start]
   CUMSUM  0.000  0.005  0.001 56.757%  86.486%  0.000  20  [x]:3

=== Summary by node type ===
                             [Node type]  [count]  [avg ms]  [avg %]    [cdf %]  [mem KB]  [times called]
                                  CUMSUM        1     0.001  75.000%    75.000%     0.000              20
 Delegate/Fully Connected (NC, F32) GEMM        1     0.000  25.000%   100.000%     0.000              40

=== Delegate Statistics ===
Delegate/Other  1  0.000  25.000%  100.000%  0.000  40
Timings (microseconds): count=2 first=9 curr=4000 min=1
"""
    assert parse_summary(text) == {
        "CUMSUM": (20, 3.0),
        "Delegate/Fully Connected (NC, F32) GEMM": (40, 1.0),
    }
    nothing = text.replace("curr=4000", "curr=0").replace("75.000%", "-nan%").replace("25.000%", "-nan%")
    assert set(parse_summary(nothing).values()) == {(20, 0.0), (40, 0.0)}
    for other in (text.replace("Summary by node type", "Summary"), text.replace("curr", "now")):
        with pytest.raises(InputError, match="words its profile in an unknown way"):
            parse_summary(other)


def test_an_export_directory_stands_for_all_models_in_it(directory, monkeypatch):
    from keras_vit.export.verification import benchmark as module

    monkeypatch.setattr(module, "_take_turns", lambda rows, seconds, tell: rows[0].update(error=None))
    names = [row["name"] for row in benchmark([directory], [1])["models"]]
    files = ["float32.tflite", "int8.tflite", "cut.tflite", "changed.tflite"]
    assert names == ["keras/float32.keras", "keras/int8.keras", *files, "saved_model/1"]


def test_models_of_one_name_are_told_apart(directory, tmp_path, monkeypatch):
    from keras_vit.export.verification import benchmark as module

    monkeypatch.setattr(module, "_take_turns", lambda rows, seconds, tell: None)
    paths = [tmp_path / "a" / "x.tflite", tmp_path / "b" / "x.tflite"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes((directory / "float32.tflite").read_bytes())
    assert [row["name"] for row in benchmark(paths, [1])["models"]] == ["a/x.tflite", "b/x.tflite"]


def test_a_crash_in_the_middle_is_a_row_and_the_others_go_on(directory, tmp_path, monkeypatch):
    from keras_vit.export.verification import benchmark as module

    (tmp_path / "dies_later.py").write_text(
        "import json, os, sys\n"
        "job = json.load(open(sys.argv[1]))\n"
        "if 'profile' in job: sys.exit('no profiler here')\n"
        "print('some library is loud')\n"
        "print(json.dumps({'delegated': 1.0, 'operators': {'ADD': 2}}), flush=True)\n"
        "for turn, _ in enumerate(sys.stdin):\n"
        "    if 'int8' in job['path'] and turn == 2:\n"
        "        print('terminate called', file=sys.stderr, flush=True); os.abort()\n"
        "    time = (turn + job['threads']) * (2 if job['path'].endswith('changed.tflite') else 1)\n"
        "    print(json.dumps({'times': [time], 'memory_bytes': turn}), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "WORKER", "dies_later")
    paths = [directory / f"{name}.tflite" for name in ("float32", "int8", "changed")]
    report = benchmark(paths, [3], operators=True)
    good, bad, slow = report["models"]
    assert (good["ratio"], slow["ratio"]) == (1.0, 2.0)
    assert bad["error"] == "killed by SIGABRT: terminate called"
    assert bad["runs"] is bad["latency_ms_p50"] is bad["operators"] is bad["ratio"] is None
    assert good["error"] is None and good["runs"] == 5 and good["memory_bytes"] == 4
    assert good["latency_ms_p50"] == 5.0 and good["latency_ms_p95"] == pytest.approx(6.8)  # of 3 4 5 6 7
    assert good["profile_error"] == "no profiler here" and good["profile"] is bad["profile_error"] is None
    notes = "\n".join(str(page) for page in pages(report))
    assert "float32.tflite, 3 threads: no times of operators. no profiler here" in notes
    assert "int8.tflite: killed by SIGABRT: terminate called" in notes


def test_a_runtime_without_a_profiler_says_so(directory, tmp_path, monkeypatch):
    path = str(directory / "float32.tflite")
    model = litert_profiler.CompiledModel(path, 1)
    with pytest.raises(InputError, match="this version of LiteRT has no LiteRtNothing"):
        model._call("LiteRtNothing")
    with pytest.raises(InputError, match="LiteRtStartProfiler gives error"):
        model._call("LiteRtStartProfiler", None)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(litert_profiler.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="this build of LiteRT has no C library"):
        litert_profiler.CompiledModel(path, 1)


def test_another_tool_s_file_needs_its_runtime_only_when_it_is_given(tmp_path, monkeypatch):
    from keras_vit.export.verification import benchmark as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    for suffix, message in (
        (".onnx", "ONNX Runtime, .* pip install onnxruntime"),
        (".xml", "pip install openvino"),
    ):
        (tmp_path / f"fake{suffix}").write_bytes(b"<net>")
        with pytest.raises(
            InputError, match=rf"fake{suffix} needs .*which is not installed: .*{message[-15:]}\."
        ):
            benchmark([tmp_path / f"fake{suffix}"])


def test_the_weights_beside_an_openvino_file_count(tmp_path, monkeypatch):
    from keras_vit.export.verification import benchmark as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "_take_turns", lambda rows, seconds, tell: None)
    (tmp_path / "their.xml").write_text('<?xml version="1.0"?>\n<net name="their"></net>')
    (tmp_path / "their.bin").write_bytes(b"x" * 1000)
    (row,) = benchmark([tmp_path / "their.xml"], [1])["models"]
    assert row["kind"] == "openvino"
    assert row["bytes"] == 1000 + (tmp_path / "their.xml").stat().st_size


def test_onnx_runtime_is_asked_for_one_image_on_so_many_threads(tmp_path, monkeypatch):
    """With a stand-in for ONNX Runtime, which need not be installed here."""
    (tmp_path / "onnxruntime.py").write_text(
        "import types\n"
        "class SessionOptions:\n"
        "    def add_session_config_entry(self, key, value): pass\n"
        "class InferenceSession:\n"
        "    def __init__(self, path, options, providers):\n"
        "        assert (options.intra_op_num_threads, providers) == (2, ['CPUExecutionProvider'])\n"
        "    def get_inputs(self):\n"
        "        one = types.SimpleNamespace(name='pixels', shape=['batch', 3, 4], type='tensor(float)')\n"
        "        return [one, types.SimpleNamespace(name='ids', shape=[1, 5], type='tensor(int64)')]\n"
        "    def run(self, names, inputs):\n"
        "        assert names is None and list(inputs) == ['pixels', 'ids']\n"
        "        got = [(v.shape, str(v.dtype)) for v in inputs.values()]\n"
        "        assert got == [((1, 3, 4), 'float32'), ((1, 5), 'int64')]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their.onnx").write_bytes(b"anything")
    (row,) = benchmark([tmp_path / "their.onnx"], [2], 0.01)["models"]
    assert row["error"] is None and row["runs"] >= 15 and row["kind"] == "onnx"
    assert "onnxruntime" not in sys.modules
    with pytest.raises(InputError, match=r"nothing could be measured. their.onnx: AssertionError"):
        benchmark([tmp_path / "their.onnx"], [1], 0.01)


def test_pages_show_every_number_and_every_reason(report):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*pages(report), sep="\n")
    text = console.export_text()
    row = report["models"][0]
    cells = next(line.split() for line in text.splitlines() if line.startswith(row["name"]))
    assert cells[3:7] == ["1", f"{row['latency_ms_p50']:.3g}", f"{row['latency_ms_p95']:.3g}", "1.00"]
    assert cells[-2:] == ["100%", str(sum(row["operators"].values()))]
    assert text.count(f"{report['models'][2]['name']}: cannot be loaded by LiteRT") == 1
    assert "Fully Connected (NC, F32) GEMM" in text and "CUMSUM" in text
    assert "LiteRT's profiler cuts the time of every operator to whole microseconds" in text


def run(capsys, *words):
    """(exit code, standard output, last line of standard error) of `keras-vit benchmark WORDS`."""
    code, out, err = command_line.run(capsys, "benchmark", *words)
    return code, out, err.splitlines()[-1:]


def test_json_for_programs(directory, capsys):
    code, out, _ = run(capsys, directory / "float32.tflite", "--threads", "1", "--seconds", "0.02", "--json")
    assert code == 0
    (row,) = json.loads(out)["models"]
    assert row["name"] == "float32.tflite" and row["ratio"] == 1.0 and row["profile"] is None


def test_timing_a_tflite_file_needs_no_tensorflow(directory):
    code = (
        "import sys; from keras_vit import cli\n"
        f"sys.argv = ['keras-vit', 'benchmark', {str(directory / 'float32.tflite')!r}, '--seconds', '0.02']\n"
        "try: cli.main()\nexcept SystemExit as stop: assert not stop.code, stop\n"
        "print([m for m in ('keras', 'tensorflow', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
    assert "float32.tflite" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.tflite"], "there is no .*none.tflite: give a .tflite"),
        (["notes.txt"], "unknown suffix '.txt': give a .tflite"),
        (["text.tflite"], "text.tflite is no .tflite model, or is damaged: make it again"),
        (["text.keras"], "text.keras is no .keras model, or is damaged"),
        (["cut.tflite"], "nothing could be measured. cut.tflite: cannot be loaded by LiteRT"),
        (["empty"], "empty is empty: give a .tflite"),
        ([""], "holds no saved_model.pb: give one of the models in it: cut.tflite, good.tflite"),
        (["good.tflite", "--threads", "0"], "threads are positive whole numbers such as 1,2, not '0'"),
        (["good.tflite", "--threads", "two"], "threads are positive whole numbers such as 1,2, not 'two'"),
        (["good.tflite", "--threads", ""], "threads are positive whole numbers"),
        (["good.tflite", "--seconds", "0"], "seconds must be a positive number, not 0.0"),
        (["good.tflite", "--seconds", "nan"], "seconds must be a positive number, not nan"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(directory, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "text.tflite", "text.keras"):
        (tmp_path / name).write_text("hello")
    for name, source in (("good.tflite", "float32.tflite"), ("cut.tflite", "cut.tflite")):
        (tmp_path / name).write_bytes((directory / source).read_bytes())
    code, out, (line,) = run(capsys, tmp_path / words[0], *words[1:])
    assert (code, out) == (2, "")
    assert re.match(f"error: .*{message}", line), line


def test_thread_counts():
    assert thread_counts("1,2") == [1, 2] and thread_counts("2, 1,2") == [2, 1] and thread_counts((4,)) == [4]
    for bad in ("1;2", "-1", [], [0], 3, None):
        with pytest.raises(InputError, match="threads are positive whole numbers"):
            thread_counts(bad)
