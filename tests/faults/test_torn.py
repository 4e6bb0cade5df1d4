"""Every file of a run cut short, as a full disk or a power failure leaves it: no traceback ends the next ``run``.

In: a small finished run. Each file of it in turn is cut in one of four ways (emptied, halved, cut to its first byte or
by its last one), and the run is started again: it completes, or it raises an error that names the file.
"""

import shutil
import traceback

import pytest

from speechssl.core.errors import SpeechsslError
from speechssl.workflows.pipeline import run
from tests.support.whole import settings, write_folder

LENGTHS = (lambda size: 0, lambda size: size // 2, lambda size: 1, lambda size: size - 1)
"""What is left of a file. Files of one kind stand together, so each kind is cut in several ways."""
NOT_READ = {".lock", ".0", ".1", ".2"}
"""Lock files, and event files of TensorBoard."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, its settings, and a copy to restore it from."""
    place = tmp_path_factory.mktemp("torn")
    folder = write_folder(place / "tones", {"train": 8, "dev": 2, "test": 2})
    cfg = settings(place / "run", steps=2)
    run(folder, cfg)
    shutil.copytree(place / "run", place / "copy")
    return folder, cfg, place / "run", place / "copy"


@pytest.fixture(scope="module")
def stopped(whole):
    """The same run, stopped before the last iteration of pretraining was exported."""
    folder, cfg, output, copy = whole
    place = copy.with_name("stopped")
    shutil.copytree(copy, place)
    for name in ("pretrain", "finetune", "evaluate", "report"):
        (place / "stages" / f"{name}.json").unlink()
    for name in ("pretrain/model", "pretrain/iteration-2/model", "finetune/model", "evaluate"):
        shutil.rmtree(place / name)
    return folder, cfg, output, place


RESULTS = ("pretrain/model/model.safetensors", "finetune/model/model.safetensors", "shards/manifest.jsonl")


def changed(copy, output, name):
    """Whether a result is not the one of the undisturbed run (where that had it)."""
    return (copy / name).exists() and (copy / name).read_bytes() != (output / name).read_bytes()


def try_each(state, first, capfd):
    """Cut each file of a run, run again, and return what went wrong."""
    folder, cfg, output, copy = state
    wrong, ends = [], {"completed": 0, "refused": 0}
    files = [path.relative_to(copy) for path in sorted(copy.rglob("*")) if path.is_file()]
    for number, name in enumerate(files):
        size = (copy / name).stat().st_size
        if not size or name.suffix in NOT_READ:
            continue
        shutil.rmtree(output)
        shutil.copytree(copy, output)
        with (output / name).open("r+b") as file:
            file.truncate(LENGTHS[(number + first) % len(LENGTHS)](size))
        try:
            run(folder, cfg)
            ends["completed"] += 1
            wrong += [f"{name}: {other} is not whole" for other in RESULTS if changed(copy, output, other)]
        except SpeechsslError as error:
            ends["refused"] += 1
            if str(output / name) not in str(error):
                wrong.append(f"{name}: not named in: {error}")
        except Exception:
            wrong.append(f"{name}: {traceback.format_exc()}")
        capfd.readouterr()
    return wrong, ends


def test_H6_a_finished_run_with_a_torn_file_completes_or_names_it(whole, capfd):
    wrong, ends = try_each(whole, 0, capfd)
    assert not wrong, "\n".join(wrong)
    assert ends["completed"] > 30, ends


def test_H6_a_stopped_run_with_a_torn_file_goes_on_or_names_it(stopped, capfd):
    wrong, ends = try_each(stopped, 1, capfd)
    assert not wrong, "\n".join(wrong)
    assert ends["completed"] > 15, ends
