"""The command line: verbs, near misses, exit codes, usage lines. (What the verbs do is tested where they live.)"""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from speechssl.cli.main import EXIT_INTERRUPTED, VERBS, main
from speechssl.core.errors import InterruptedRun


def test_no_verb_is_a_wrong_command_line(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


def test_help_is_instant():
    # Processor time, the best of three: the bar is for the program, not for a busy machine.
    best = float("inf")
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "speechssl", "--help"], check=True, capture_output=True)
        after = os.times()
        best = min(best, sum(after[2:4]) - sum(before[2:4]))
    assert best < 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretran"], "did you mean 'pretrain'"),
        (["xyzzy"], "verbs: run"),
    ],
)
def test_unknown_verb(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "wav2vec-base"], "did you mean 'wav2vec2-base'"),
        (["manifest", "only-one"], "usage: speechssl manifest FOLDER OUTPUT [CONFIG]"),
        (["run"], "usage: speechssl run FOLDER [CONFIG]"),
        (["verify"], "usage: speechssl verify SHARDS"),
        (["verify", "somewhere", "--fast", "1"], "verify takes no settings"),
        (["report", "somewhere", "--fast", "1"], "report takes no settings"),
        (["transcribe"], "usage: speechssl transcribe FILE|FOLDER|-..."),
        (["run", "no-such-folder", "run-cpu"], "is not a folder"),
    ],
)
def test_wrong_use_is_explained(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_setting_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--optim.lrr", "1"])
    assert stop.value.code == 2
    assert "--optim.lr" in "".join(capsys.readouterr())


def test_an_interrupted_run_has_its_own_exit_code(monkeypatch, capsys):
    def interrupted(words, overrides):
        raise InterruptedRun(f"saved at step 7 {words} {overrides}")

    monkeypatch.setitem(VERBS, "pretrain", interrupted)
    assert main(["pretrain", "mine.toml", "--seed", "3"]) == EXIT_INTERRUPTED == 75
    assert "saved at step 7 ['mine.toml'] ['--seed', '3']" in capsys.readouterr().err


def test_keyboard_interrupt(monkeypatch):
    def stop(words, overrides):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "report", stop)
    assert main(["report", "x"]) == 130


def test_asked_to_stop_outside_training_it_cleans_up_and_says_how_to_go_on(monkeypatch, capsys):
    cleaned = []

    def stop(words, overrides):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            cleaned.append(signal.getsignal(signal.SIGTERM))

    monkeypatch.setitem(VERBS, "report", stop)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["report", "x"]) == EXIT_INTERRUPTED
    assert cleaned == [signal.SIG_DFL]  # whoever asks again does not have to wait
    assert signal.getsignal(signal.SIGTERM) == before
    assert "interrupted: SIGTERM; run the same command again" in capsys.readouterr().err


def test_outside_the_main_thread_no_handler_is_set(monkeypatch):
    codes = []
    monkeypatch.setitem(VERBS, "report", lambda words, overrides: 3)
    thread = threading.Thread(target=lambda: codes.append(main(["report", "x"])))
    thread.start()
    thread.join()
    assert codes == [3]


def test_what_the_system_refuses_is_one_clear_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(VERBS, "report", lambda words, overrides: (tmp_path / "no" / "such").write_text("x"))
    assert main(["report", "x"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'no' / 'such'}: No such file or directory\n"


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m speechssl pretrain --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
