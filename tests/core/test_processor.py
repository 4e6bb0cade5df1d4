"""What the processor may be used for: its units, emulation of older ones, and the line that says it."""

import os
import subprocess
import sys

import pytest

from speechssl.core.processor import Processor, Unit, detect, processor

AVX2 = ("avx2",)
AVX512 = (*AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
BF16 = (*AVX512, "avx512_bf16")
AMX = (*BF16, "amx_tile", "amx_bf16")


def found(names=AMX, machine="x86_64", **variables):
    return detect(dict.fromkeys(names, True) | {"avx512_fp16": False}, variables, machine)


@pytest.mark.parametrize(
    ("names", "unit", "line"),
    [
        ((), Unit.BASE, "no AVX2, no bfloat16"),
        (AVX2, Unit.AVX2, "AVX2, no bfloat16"),
        ((*AVX2, "avx512_f"), Unit.AVX2, "AVX2, no bfloat16"),  # Xeon Phi: the kernels need the other parts, too
        (AVX512, Unit.AVX512, "AVX-512, no bfloat16"),
        (BF16, Unit.AVX512_BF16, "AVX-512, bfloat16"),
        (AMX, Unit.AMX_BF16, "AMX, bfloat16"),
        ((*AVX2, "amx_tile", "amx_bf16"), Unit.AVX2, "AVX2, no bfloat16"),  # hidden by a hypervisor
    ],
)
def test_C1_units_and_their_line(names, unit, line):
    here = found(names)
    assert (here.unit, here.there, str(here)) == (unit, unit, line)
    assert here.bf16 == (unit >= Unit.AVX512_BF16)
    assert here.avx512 == (unit >= Unit.AVX512)


@pytest.mark.parametrize(
    ("variables", "unit"),
    [
        ({}, Unit.AMX_BF16),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, Unit.AVX2),
        ({"ATEN_CPU_CAPABILITY": "default"}, Unit.BASE),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, Unit.AMX_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, Unit.BASE),
        ({"ONEDNN_MAX_CPU_ISA": "AVX"}, Unit.BASE),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, Unit.AVX2),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, Unit.AVX2),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI_2"}, Unit.AVX2),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, Unit.AVX512),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, Unit.AVX512),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, Unit.AVX512_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}, Unit.AVX512_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, Unit.AMX_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX_FP16"}, Unit.AMX_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, Unit.AVX512_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512_AMX"}, Unit.AMX_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, Unit.AMX_BF16),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, Unit.AVX2),  # oneDNN does not tell small letters from large ones
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, Unit.AVX2),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX2"}, Unit.AVX512),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx2"}, Unit.AVX2),
    ],
)
def test_C1_an_older_processor_can_be_emulated(variables, unit):
    here = found(AMX, **variables)
    assert (here.unit, here.there) == (unit, Unit.AMX_BF16)
    assert str(here).endswith(" (emulated)") == (unit < Unit.AMX_BF16)


def test_C1_emulation_adds_nothing_to_a_processor():
    assert found(AVX2, ONEDNN_MAX_CPU_ISA="AVX512_CORE_AMX") == Processor(Unit.AVX2, Unit.AVX2)


def test_C1_other_machines_compute_in_float32():
    here = found((), machine="arm64")
    assert not here.bf16
    assert str(here) == "arm64, bfloat16 not used"


def test_C1_a_child_process_sees_the_emulated_processor():
    command = "from speechssl.core.processor import processor; print(processor().unit, processor())"
    settings = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", command], env=settings, capture_output=True, text=True, check=True)
    if processor().there > Unit.BASE:
        assert done.stdout.strip() == "0 no AVX2, no bfloat16 (emulated)"
    assert not processor().unit > processor().there
