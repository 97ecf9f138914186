import logging
import sys
import warnings

import pytest
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from reft_interp.models.quiet import quiet


def make_noise():
    print("printed")
    print("printed to stderr", file=sys.stderr)
    warnings.warn("warned", stacklevel=1)
    logging.getLogger("transformers.some_module").error("logged by %s", "transformers")
    logging.getLogger("transformer_lens").warning("logged by transformer_lens")
    list(tqdm(range(3), desc="a bar"))
    list(transformers_logging.tqdm(range(3), desc="a transformers bar"))


def test_noise_is_logged_and_not_shown(capfd, caplog):
    with caplog.at_level(logging.DEBUG, logger="reft_interp"), quiet():
        make_noise()
    assert capfd.readouterr() == ("", "")
    for part in ("printed to stderr", "UserWarning: warned", "logged by transformers", "a bar"):
        assert part in caplog.text
    assert "a transformers bar" not in caplog.text


def test_afterwards_everything_is_as_before(capfd):
    library = logging.getLogger("transformers")
    before = (library.handlers, library.propagate, logging.getLogger().handlers[:])
    bars = transformers_logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert before == (library.handlers, library.propagate, logging.getLogger().handlers)
    assert transformers_logging.is_progress_bar_enabled() == bars
    with pytest.warns(UserWarning, match="warned"):
        make_noise()
    assert "printed to stderr" in capfd.readouterr().err


def test_bars_that_were_off_stay_off():
    transformers_logging.disable_progress_bar()
    try:
        with quiet():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


def test_a_library_that_logs_to_the_root_does_not_configure_it():
    root = logging.getLogger()
    handlers = root.handlers
    root.handlers = []
    try:
        with quiet():
            logging.warning("to the root")
        assert root.handlers == []
    finally:
        root.handlers = handlers
