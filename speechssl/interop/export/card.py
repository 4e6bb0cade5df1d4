"""The model card of an export: ``README.md`` in the form that the Hugging Face hub reads.

In: the model, and what the comparison found. Out: Markdown with its metadata on top.
"""

from collections.abc import Sequence

from speechssl.config.verbs import Format
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder

__all__ = ["model_card"]

LIBRARIES: dict[Format, str] = {
    "hf": "transformers", "onnx": "onnxruntime", "onnx-asr": "onnx-asr", "sherpa": "sherpa-onnx",
    "torchaudio": "torchaudio",
}  # fmt: skip
USE: dict[Format, str] = {
    "hf": 'transformers.pipeline("automatic-speech-recognition", FOLDER)("talk.wav")["text"]',
    "onnx": 'onnxruntime.InferenceSession("model.onnx").run(None, {"input_values": waves, "input_lengths": lengths})',
    "onnx-asr": 'onnx_asr.load_model("wav2vec2-ctc", FOLDER).recognize("talk.wav")',
    "sherpa": 'sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc("model.onnx", "tokens.txt")',
    "torchaudio": 'torchaudio.models.wav2vec2_model(**json.load(open("config.json"))["wav2vec2_model"])',
}
"""A line of Python for each format."""


def model_card(form: Format, model: ModelFolder, encoder: SpeechEncoder, written: str, findings: Sequence[str]) -> str:
    """Return the model card of an export whose class or layout is ``written``."""
    recogniser = model.tokens is not None
    language = str((model.tokens or {}).get("language") or "")
    parameters = sum(value.numel() for value in model.state.values()) / 1e6
    use = USE[form] if recogniser or form != "hf" else "transformers.AutoModel.from_pretrained(FOLDER)"
    facts = {name: value for name, value in model.info.items() if isinstance(value, str | int | float) and value != ""}
    scale = (
        "Waveforms get mean 0 and variance 1 first"
        + (": in the feature extractor." if form == "hf" else ", by the caller." if form == "torchaudio" else ", here.")
        if encoder.cfg.normalize
        else "Waveforms are taken as they are, with full scale 1."
    )
    stem, blocks = encoder.cfg.frontend, encoder.cfg.encoder
    lines = [
        "---",
        f"library_name: {LIBRARIES[form]}",
        f"pipeline_tag: {'automatic-speech-recognition' if recogniser else 'feature-extraction'}",
        *([f"language: {language}"] if language else []),
        "tags: [speech, speechssl]",
        "---",
        "",
        f"# Speech {'recogniser (CTC)' if recogniser else 'encoder'}, {parameters:.1f} M parameters",
        "",
        f"Written by speechssl as: {written}.",
        "",
        "```python",
        use,
        "```",
        "",
        f"- Input: {SAMPLE_RATE} Hz, one channel, float32. {scale}",
        f"- Frames: one every {encoder.hop / SAMPLE_RATE * 1000:g} ms, from {encoder.frontend.receptive} samples each.",
        f"- Encoder: {stem.kind} stem, {blocks.layers} {blocks.block} blocks of {blocks.dim} channels.",
        *(
            [f"- Outputs: {len(model.tokens['symbols'])} symbols, of which the first is the blank."]
            if model.tokens
            else []
        ),
        "",
        "## Comparison with the model in speechssl",
        "",
        *(f"- {line}" for line in findings),
        "",
        "## Training",
        "",
        *(f"- {name}: {value}" for name, value in sorted(facts.items())),
        "",
        "The licence is that of the training data and of the weights it started from: add it above.",
    ]
    return "\n".join(lines) + "\n"
