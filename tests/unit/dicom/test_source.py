import threading

from pydicom import config

from medd.dicom.source import lenient


def test_lenient_lasts_until_the_last_thread_has_left():
    before = config.settings.writing_validation_mode
    entered, left = threading.Event(), threading.Event()

    def first():
        with lenient():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with lenient():
        left.set()
        thread.join()
        assert config.settings.writing_validation_mode == config.IGNORE
    assert config.settings.writing_validation_mode == before
