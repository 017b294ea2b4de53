"""Public frozen encoders under short names: where each lies, at which commit, and what it is. Plain data.

A revision is pinned only where its commit hash was read in public sources; the others say "main". Nothing is
fetched here: `Card.address` is what `hub.locate` is asked for.
"""

from __future__ import annotations

from typing import NamedTuple

SAFE = "safetensors at this revision"
PICKLE = "only a pickle at this revision"
UNSEEN = "not looked at: safetensors are expected"


class Card(NamedTuple):
    """One public encoder: its `family` (families.py), `width` of a vector or token, `weights` a text from above."""

    name: str
    family: str
    hub: str
    revision: str
    kinds: tuple[str, ...]
    width: int
    about: str
    trained: str
    licence: str
    weights: str = SAFE
    note: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return len(self.revision) == 40

    @property
    def address(self) -> str:
        """`owner/model@revision`."""
        return f"{self.hub}@{self.revision}"


_SOUND, _SEEN, _CLIP, _TEXT = ("audio",), ("video", "image"), ("video",), ("text",)
_SPEECH = "self-supervised on"
_APACHE, _MIT = "Apache-2.0", "MIT"
_CLIP_DATA = "400 million pairs of picture and text from the web (WIT)"

_CARDS = (
    Card(
        "wavlm-base",
        "wavlm",
        "microsoft/wavlm-base",
        "efa81aae7ff777e464159e0f877d54eac5b84f81",
        _SOUND,
        768,
        "WavLM: speech, speaker and emotion",
        f"{_SPEECH} 960 h of LibriSpeech",
        "not stated on the hub (code: MIT)",
        PICKLE,
    ),
    Card(
        "wavlm-base-plus",
        "wavlm",
        "microsoft/wavlm-base-plus",
        "4c66d4806a428f2e922ccfa1a962776e232d487b",
        _SOUND,
        768,
        "WavLM on 100 times the data",
        f"{_SPEECH} 94,000 h: Libri-Light, GigaSpeech, VoxPopuli",
        "not stated on the hub (code: MIT)",
        PICKLE,
    ),
    Card(
        "wavlm-large",
        "wavlm",
        "microsoft/wavlm-large",
        "c1423ed94bb01d80a3f5ce5bc39f6026a0f4828c",
        _SOUND,
        1024,
        "WavLM, 24 layers; inner layers are often the better ones",
        f"{_SPEECH} 94,000 h: Libri-Light, GigaSpeech, VoxPopuli",
        "not stated on the hub (code: MIT)",
        PICKLE,
    ),
    Card(
        "hubert-base",
        "hubert",
        "facebook/hubert-base-ls960",
        "dba3bb02fda4248b6e082697eee756de8fe8aa8a",
        _SOUND,
        768,
        "HuBERT: speech",
        f"{_SPEECH} 960 h of LibriSpeech",
        _APACHE,
        PICKLE,
    ),
    Card(
        "wav2vec2-base",
        "wav2vec2",
        "facebook/wav2vec2-base-960h",
        "22aad52d435eb6dbaf354bdad9b0da84ce7d6156",
        _SOUND,
        768,
        "wav2vec 2.0: speech",
        f"{_SPEECH} 960 h of LibriSpeech, then tuned to transcribe it",
        _APACHE,
        note="its last layers say what was spoken, its middle ones more about how",
    ),
    Card(
        "whisper-small",
        "whisper",
        "openai/whisper-small",
        "973afd24965f72e36ca33b3055d56a652f456b4d",
        _SOUND,
        768,
        "encoder of Whisper: speech in many languages",
        "680,000 h of transcribed speech from the web",
        _APACHE,
        note="always looks at 30 s, whatever a clip's length: slow for short clips",
    ),
    Card(
        "ast",
        "audio-spectrogram-transformer",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "f826b80d28226b62986cc218e5cec390b1096902",
        _SOUND,
        768,
        "audio spectrogram transformer: events and music",
        "ImageNet, then AudioSet with its labels",
        "BSD-3-Clause",
        note="AudioSet is made of YouTube clips, as AVE and Kinetics are: the same clips may be in both",
    ),
    Card(
        "clap",
        "clap",
        "laion/clap-htsat-unfused",
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        _SOUND,
        768,
        "audio tower of CLAP: events and music",
        "630,000 pairs of sound and text (LAION-Audio-630K, AudioSet)",
        _APACHE,
        PICKLE,
    ),
    Card(
        "clip-b32",
        "clip",
        "openai/clip-vit-base-patch32",
        "d15b5f29721ca72dac15f8526b284be910de18be",
        _SEEN,
        768,
        "image tower of CLIP, patches of 32 px",
        _CLIP_DATA,
        _MIT,
        note="a commit at which safetensors were seen; those of the main branch were not",
    ),
    Card(
        "clip-b16",
        "clip",
        "openai/clip-vit-base-patch16",
        "57c216476eefef5ab752ec549e440a49ae4ae5f3",
        _SEEN,
        768,
        "image tower of CLIP, patches of 16 px",
        _CLIP_DATA,
        _MIT,
        PICKLE,
    ),
    Card(
        "clip-l14",
        "clip",
        "openai/clip-vit-large-patch14",
        "32bd64288804d66eefd0ccbe215aa642df71cc41",
        _SEEN,
        1024,
        "image tower of the large CLIP",
        _CLIP_DATA,
        _MIT,
    ),
    Card(
        "dinov2-small",
        "dinov2",
        "facebook/dinov2-small",
        "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        _SEEN,
        384,
        "DINOv2, small",
        "self-supervised on 142 million pictures (LVD-142M)",
        _APACHE,
    ),
    Card(
        "dinov2-base",
        "dinov2",
        "facebook/dinov2-base",
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        _SEEN,
        768,
        "DINOv2",
        "self-supervised on 142 million pictures (LVD-142M)",
        _APACHE,
    ),
    Card(
        "siglip-base",
        "siglip",
        "google/siglip-base-patch16-224",
        "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        _SEEN,
        768,
        "image tower of SigLIP",
        "pairs of picture and text from the web (WebLI)",
        _APACHE,
    ),
    Card(
        "vit-base",
        "vit",
        "google/vit-base-patch16-224",
        "3f49326eb077187dfe1c2a2bb15fbd74e6ab91e3",
        _SEEN,
        768,
        "ViT, trained with labels",
        "ImageNet-21k, then ImageNet-1k",
        _APACHE,
    ),
    Card(
        "resnet-50",
        "resnet",
        "microsoft/resnet-50",
        "34c2154c194f829b11125337b98c8f5f9965ff19",
        _SEEN,
        2048,
        "ResNet-50 v1.5",
        "ImageNet-1k",
        _APACHE,
    ),
    Card(
        "convnext",
        "convnext",
        "facebook/convnext-base-224",
        "main",
        _SEEN,
        1024,
        "ConvNeXt, base",
        "ImageNet-1k",
        _APACHE,
        UNSEEN,
    ),
    Card(
        "videomae-base",
        "videomae",
        "MCG-NJU/videomae-base",
        "dc740ceda42fce44faed2ea03c6d447db72f6af9",
        _CLIP,
        768,
        "VideoMAE: 16 frames at once",
        "self-supervised on Kinetics-400",
        "CC-BY-NC-4.0",
        note="never tuned with labels: linear probes on it are weak; videomae-k400 is the stronger one",
    ),
    Card(
        "videomae-k400",
        "videomae",
        "MCG-NJU/videomae-base-finetuned-kinetics",
        "488eb9a0565f257b32866000305c8178965eb9f6",
        _CLIP,
        768,
        "VideoMAE tuned on actions: 16 frames at once",
        "Kinetics-400, then its labels",
        "CC-BY-NC-4.0",
        UNSEEN,
        note="has seen Kinetics-400 with labels: not for Kinetics-Sounds",
    ),
    Card(
        "bert-base",
        "bert",
        "google-bert/bert-base-uncased",
        "86b5e0934494bd15c9632b12f734a8a67f723594",
        _TEXT,
        768,
        "BERT, uncased",
        "English Wikipedia and BookCorpus",
        _APACHE,
    ),
    Card(
        "roberta-base",
        "roberta",
        "FacebookAI/roberta-base",
        "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
        _TEXT,
        768,
        "RoBERTa",
        "160 GB of English text",
        _MIT,
    ),
    Card(
        "distilbert",
        "distilbert",
        "distilbert/distilbert-base-uncased",
        "12040accade4e8a0f71eabdb258fecc2e7e948be",
        _TEXT,
        768,
        "BERT at half its depth",
        "distilled from BERT on the same text",
        _APACHE,
    ),
    Card(
        "minilm",
        "bert",
        "sentence-transformers/all-MiniLM-L6-v2",
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        _TEXT,
        384,
        "small sentence encoder",
        "a billion pairs of sentences",
        _APACHE,
        note="made for the pool mean; its own library also scales vectors to length 1, which is not done here",
    ),
    Card(
        "mpnet-base",
        "mpnet",
        "sentence-transformers/all-mpnet-base-v2",
        "e8c3b32edf5434bc2275fc9bab85f82640a19130",
        _TEXT,
        768,
        "sentence encoder",
        "a billion pairs of sentences",
        _APACHE,
        UNSEEN,
        note="made for the pool mean; its own library also scales vectors to length 1, which is not done here",
    ),
    Card(
        "clip-b32-text",
        "clip/text",
        "openai/clip-vit-base-patch32",
        "d15b5f29721ca72dac15f8526b284be910de18be",
        _TEXT,
        512,
        "text tower of CLIP, at most 77 tokens",
        _CLIP_DATA,
        _MIT,
        note="has no form for pairs of texts: they are joined with a blank",
    ),
)

CATALOGUE = {card.name: card for card in _CARDS}


def card_of(name: str) -> Card | None:
    """The card behind a short name, with another revision when it is written `name@REVISION`."""
    short, at, revision = name.partition("@")
    card = CATALOGUE.get(short)
    if card is None or (at and not revision):
        return None
    return card._replace(revision=revision, weights=UNSEEN) if at and revision != card.revision else card


def address_of(name: str) -> str:
    """`owner/model@revision` of a short name; any other name (a folder, a hub name) as it is."""
    card = card_of(name)
    return card.address if card else name
