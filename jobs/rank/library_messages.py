"""What libraries log that looks like an error and is none."""

import logging


def hide_harmless_messages() -> None:
    """Keep three messages out of the logs of ranks; call it before the libraries are imported."""
    # bitsandbytes 0.50 looks for a faster kernel on CPUs, in a package that nobody asked for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_no_missing_kernel)
    # transformers 5.23 prints a table of tensors that are new or not used; `jobs.models.build` says that in a line.
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)
    # It counts the tokens of whole prompts, which are cut to the model's positions afterwards, and counted.
    logging.getLogger("transformers.tokenization_utils_base").addFilter(_is_no_length)


def _is_no_missing_kernel(record: logging.LogRecord) -> bool:
    return "from kernels-community" not in record.getMessage()


def _is_no_length(record: logging.LogRecord) -> bool:
    return "sequence length is longer than the specified maximum" not in record.getMessage()


def _is_no_load_report(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    # An error that follows refers to these.
    return "LOAD REPORT" not in text or "MISMATCH" in text or "CONVERSION" in text
