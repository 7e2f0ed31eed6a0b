"""StructBERT (Wang et al. 2019) and plug_mental: encoders that judge texts, tag their words, fill masks, answer FAQs.

The encoder is post-norm BERT, `mplug.text_encoder.TextEncoder`; dimensions as in `mplug.layers`, those of the FAQ
networks in `faq_layers`. The reference is ModelScope's `models/nlp/structbert` and `plug_mental`, 1.40.

Kept of it:
    * a span stays open over words outside any, and I or E may begin one (`tagger.join_spans`);
    * FAQ questions longer than 50 tokens lose their [SEP];
    * entailment is label 0 and contradiction label 2 in zero-shot classification;
    * plug_mental's adapters read `hidden_states[adapter_list]`, by default behind layer 11 of 12.

Not kept:
    * classification's labels behind the first are in no order with three and more; here they descend;
    * a span's probability is that of the word before it; here it is its own first word's;
    * plug_mental's adapters attend to padding, so that scores depend on the batch; here they do not (`adapters`);
    * FAQ reads the known questions again at every call; here once (`FaqAnswerer.remember`);
    * spans and masks are read up to 128 tokens; here up to the positions there are.
"""

from mplug.structbert.checkpoint import TASKS, Task, count_parameters, load, load_task, save, state_dict
from mplug.structbert.classifier import Classifier, EntailmentClassifier
from mplug.structbert.config import AdapterConfig, AdversarialConfig, FaqConfig, StructBertConfig
from mplug.structbert.faq import FaqAnswerer, KnownQuestions
from mplug.structbert.filler import WordFiller
from mplug.structbert.model import StructBertModel
from mplug.structbert.sizes import PUBLISHED
from mplug.structbert.tagger import Tagger

__all__ = [
    "PUBLISHED",
    "TASKS",
    "AdapterConfig",
    "AdversarialConfig",
    "Classifier",
    "EntailmentClassifier",
    "FaqAnswerer",
    "FaqConfig",
    "KnownQuestions",
    "StructBertConfig",
    "StructBertModel",
    "Tagger",
    "Task",
    "WordFiller",
    "count_parameters",
    "load",
    "load_task",
    "save",
    "state_dict",
]
