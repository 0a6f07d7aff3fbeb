"""What a process does that has a model write its own text; see :mod:`bench.serving.forkserver`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bench.scoring.generation.texts import Text, Texts, write_entry
from bench.writing.job import Job

AT_ONCE = 128  # texts on a CPU


def import_engine() -> None:
    """Import what takes long, before workers are forked."""
    import vllm  # noqa: F401


def main(job_file: Path) -> None:
    """Have the model of a job write what is not in the file of texts yet."""
    Writing(Job.model_validate_json(job_file.read_bytes())).execute()


class Writing:
    """A running engine, and the texts that are there."""

    def __init__(self, job: Job) -> None:
        """Start the engine."""
        from vllm import LLM

        from bench.serving.device import writing_arguments

        self.job, self.texts = job, Texts(job.texts, job.scope)
        self.llm = LLM(
            str(job.folder),
            max_model_len=job.longest,
            enable_prefix_caching=job.answers,
            **writing_arguments(job.dtype, None, job.trust_remote_code, AT_ONCE),
        )
        self.tokenizer = self.llm.get_tokenizer()
        self.llm.collective_rpc("watch_logits")

    def execute(self) -> None:
        """Write until there are as many tokens as are wanted.

        Raises:
            ValueError: every text is empty.
            ArithmeticError: logits are NaN.
        """
        while True:
            known = self.texts.known("", "")
            lengths = {index: text.tokens for index, text in known.items()}
            if known and not any(text.text.strip() for text in known.values()):
                raise ValueError("the model ends every text at once")
            if not (lacking := [i for i in self.job.list_wanted(lengths) if i not in known]):
                return
            self._write(lacking)
            if any(self.llm.collective_rpc("count_nan")):
                raise ArithmeticError("the model's logits are NaN")

    def _write(self, indices: list[int]) -> None:
        """Have some texts written, each kept as soon as it is finished."""
        from vllm import TokensPrompt

        engine = self.llm.llm_engine
        for index in indices:
            prompt = TokensPrompt(prompt_token_ids=self.job.start(index))
            engine.add_request(str(index), prompt, self._sampling(index))
        while engine.has_unfinished_requests():
            for output in engine.step():
                self._keep(int(output.request_id), output.outputs[0])

    def _sampling(self, index: int) -> Any:
        """How a text is drawn: with a generator of its own, whatever is written beside it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        said = self.job.generated
        return SamplingParams(
            temperature=said.temperature,
            top_p=said.top_p,
            seed=random.Random(f"{said.seed} {index}").getrandbits(62),
            max_tokens=self.job.longest - len(self.job.start(index)),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _keep(self, index: int, output: Any) -> None:
        begun = [] if self.job.answers else self.job.start(index)
        ids = [*begun, *output.token_ids]
        found = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).rstrip("\N{REPLACEMENT CHARACTER}")  # of a character that was cut in two
        entry = Text.of(found, output.token_ids, output.finish_reason == "length")
        write_entry(self.job.texts, index=index, text=entry)
        self.texts.take([{"index": index, "text": entry}])
