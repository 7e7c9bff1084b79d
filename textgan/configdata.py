"""The config of the data: where texts come from, how they are read and split."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from textgan.configbase import NotNegative, Positive, Rate, Section, Share

TEMPLATE = "{condition} |\n"


class Data(Section):
    source: str = Field(
        "stories",
        description="what to learn from: a .txt, .jsonl or .csv file, a folder of them, a pattern such as reviews.*, "
        "or a name: stories, stories-zh (embedded grammars), lstm-oracle (SeqGAN's), nltk:CORPUS, hf:DATASET[:CONFIG]",
    )
    dev: str | None = Field(None, description="file of the dev split; none: split off by content hash")
    test: str | None = Field(None, description="file of the test split; none: split off by content hash")
    dev_fraction: Rate = Field(0.05, description="share of texts split off as dev where no dev file is given")
    test_fraction: Share = Field(0.05, description="share of texts split off as test where no test file is given")
    format: Literal["auto", "lines", "paragraphs", "endoftext", "jsonl", "csv"] = Field(
        "auto", description="how texts stand in the files"
    )
    field: str = Field("text", description="name of the field that holds the text, for jsonl and csv")
    condition: str | None = Field(
        None,
        description="name of the field (jsonl, csv, hf) that holds what a text is written for: its title, keywords (a "
        "list is joined by commas), a story to sum up; `field` is what is learned then. Embedded stories have title, "
        "keywords, and what else they tell (luck, hero ...). None: free texts",
    )
    template: str = Field(
        TEMPLATE,
        description="what opens each row before its text, such as 'Title: {condition}\\nStory: '; tokens that are "
        "words do not see white space, so end it with a sign",
    )
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of training rows that are read without their opening, so that one model writes with and "
        "without conditions (Ho & Salimans 2022)",
    )
    label: str | None = Field(
        None,
        description="name of the field (jsonl, csv, hf) that holds a text's class or source, or of what an embedded "
        "story tells (luck, hero, weather ...); pictures of latent vectors are coloured by it, and a `classifier` "
        "learns it. None: the file's name where there are several",
    )
    encoding: str = Field("utf-8", description="character encoding of the files")
    size: Positive = Field(20000, description="number of texts drawn from an embedded grammar or oracle")
    seed: NotNegative = Field(0, description="seed of that draw (apart from the training seed, so seeds share data)")
    oracle_length: Positive = Field(20, description="tokens in each text of lstm-oracle (papers: 20 and 40)")
    dedupe: bool = Field(True, description="drop exact duplicates inside a split")
    lowercase: bool = Field(False, description="lower-case all texts")
    max_chars: Positive = Field(100_000, description="refuse a text longer than this many characters")
    too_long: Literal["drop", "window"] = Field(
        "drop", description="texts longer than generator.block_size: leave out, or cut into windows"
    )

    @model_validator(mode="after")
    def _fractions(self):
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"dev_fraction={self.dev_fraction} and test_fraction={self.test_fraction} leave nothing to "
                "train on; their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _pairs(self):
        if self.template.count("{condition}") != 1:
            raise ValueError(
                f"template={self.template!r} must hold {{condition}} exactly once, such as 'Title: {{condition}}\\n'"
            )
        if self.condition is None:
            for name, neutral in (("template", TEMPLATE), ("condition_dropout", 0)):
                if getattr(self, name) != neutral:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} has no effect without `condition`, the field that holds what "
                        "texts are written for; give it, or leave this away"
                    )
        elif self.too_long == "window":
            raise ValueError(
                "too_long=window would cut texts from their condition; with `condition` take too_long=drop and a "
                "larger generator.block_size"
            )
        return self
