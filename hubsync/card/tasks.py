"""Knows which task and which classes an architecture of transformers stands for. Tables only; no I/O.

The tasks are those of the Hub: https://huggingface.co/tasks. An architecture that could be for several is left out.
"""

from msgspec import Struct

# What a config's architecture ends in → (task, the Auto class that loads it).
_BY_HEAD = (
    ("ForCausalLM", "text-generation", "AutoModelForCausalLM"),
    ("LMHeadModel", "text-generation", "AutoModelForCausalLM"),
    ("ForMaskedLM", "fill-mask", "AutoModelForMaskedLM"),
    ("ForSequenceClassification", "text-classification", "AutoModelForSequenceClassification"),
    ("ForTokenClassification", "token-classification", "AutoModelForTokenClassification"),
    ("ForQuestionAnswering", "question-answering", "AutoModelForQuestionAnswering"),
    ("ForMultipleChoice", "multiple-choice", "AutoModelForMultipleChoice"),
    ("ForImageClassification", "image-classification", "AutoModelForImageClassification"),
    ("ForObjectDetection", "object-detection", "AutoModelForObjectDetection"),
    ("ForSemanticSegmentation", "image-segmentation", "AutoModelForSemanticSegmentation"),
    ("ForDepthEstimation", "depth-estimation", "AutoModelForDepthEstimation"),
    ("ForVideoClassification", "video-classification", "AutoModelForVideoClassification"),
    ("ForAudioClassification", "audio-classification", "AutoModelForAudioClassification"),
    ("ForCTC", "automatic-speech-recognition", "AutoModelForCTC"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition", "AutoModelForSpeechSeq2Seq"),
)
# ForConditionalGeneration says nothing by itself.
_CONDITIONAL = {
    **dict.fromkeys(("whisper", "speech_to_text"), ("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq")),
    "marian": ("translation", "AutoModelForSeq2SeqLM"),
    "m2m_100": ("translation", "AutoModelForSeq2SeqLM"),
    **dict.fromkeys(
        ("t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "led", "blenderbot", "switch_transformers"),
        ("", "AutoModelForSeq2SeqLM"),
    ),
    **dict.fromkeys(
        ("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics2", "idefics3",
         "paligemma", "gemma3", "mllama", "mistral3", "smolvlm"),
        ("image-text-to-text", "AutoModelForImageTextToText"),
    ),
}  # fmt: skip
_PEFT_TASKS = {
    "CAUSAL_LM": ("text-generation", "AutoModelForCausalLM"),
    "SEQ_CLS": ("text-classification", "AutoModelForSequenceClassification"),
    "TOKEN_CLS": ("token-classification", "AutoModelForTokenClassification"),
    "QUESTION_ANS": ("question-answering", "AutoModelForQuestionAnswering"),
    "SEQ_2_SEQ_LM": ("", "AutoModelForSeq2SeqLM"),
    "FEATURE_EXTRACTION": ("feature-extraction", "AutoModel"),
}
# What a pipeline of the task is called with.
EXAMPLE_INPUTS = {
    "text-generation": '"Once upon a time", max_new_tokens={tokens}',
    "text-classification": '"I am happy with it."',
    "token-classification": '"My name is Wolfgang and I live in Berlin."',
    "question-answering": 'question="Where do I live?", context="My name is Wolfgang and I live in Berlin."',
    "feature-extraction": '"A sentence."',
    "translation": '"How old are you?"',
    "image-classification": '"image.png"',
    "object-detection": '"image.png"',
    "image-segmentation": '"image.png"',
    "depth-estimation": '"image.png"',
    "video-classification": '"video.mp4"',
    "audio-classification": '"audio.wav"',
    "automatic-speech-recognition": '"audio.wav"',
}
TEXT_TASKS = frozenset(
    ("text-generation", "fill-mask", "text-classification", "token-classification", "feature-extraction", "translation")
)


class Task(Struct, frozen=True):
    """The Hub's name of what a model is for (empty: not known), and the class that loads it."""

    pipeline_tag: str
    auto_class: str


def task_of(architecture: str, model_type: str) -> Task | None:
    """Return what *architecture*, as a config.json names it, is for."""
    for head, pipeline_tag, auto_class in _BY_HEAD:
        if architecture.endswith(head):
            return Task(pipeline_tag, auto_class)
    if architecture.endswith(("ForConditionalGeneration", "MTModel")):
        known = _CONDITIONAL.get(model_type)
        return Task(*known) if known else None
    if architecture.endswith("Model"):
        return Task("feature-extraction", "AutoModel")

    return None


def task_of_adapter(task_type: object) -> Task | None:
    """Return what an adapter's ``task_type`` stands for."""
    known = _PEFT_TASKS.get(task_type) if isinstance(task_type, str) else None
    return Task(*known) if known else None
