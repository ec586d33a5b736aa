import itertools

import pytest

from sync_job.config import values
from sync_job.consent import tokens
from sync_job.consent.channels import ALLOWED, DENIED
from sync_job.exports import encoding


def test_no_encoding_turns_a_no_into_a_yes() -> None:
    """Whatever a text is taken for, the bytes of what says no never read as what says yes, nor the other way round."""
    known = [*encoding.CANDIDATES, "utf-8"]
    for token, meaning in tokens.BUILT_IN.items():
        for form in (token, token.upper(), token.capitalize()):
            for written, read in itertools.product(known, known):
                try:
                    found = form.encode(written).decode(read, "replace").strip().lower()
                except UnicodeEncodeError:
                    continue
                assert tokens.BUILT_IN.get(found, meaning) == meaning, (form, written, read)
    assert {ALLOWED, DENIED} == set(tokens.BUILT_IN.values())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Müller\nSchröder\nGroß\nJürgen Weiß\nBjörn", "cp1252"),
        ("да,нет,нет\nнет,да,нет", "cp1251"),
        ("да,нет,нет\nнет,да,нет", "koi8_r"),
        ("да,нет,нет\nнет,да,нет", "cp866"),
        ("да,нет,нет\nнет,да,нет", "iso8859_5"),
        ("Иванова Мария Ивановна\nПетров Пётр Петрович", "mac_cyrillic"),
        ("Łukasz\nŻółć\nMałgorzata Śliwińska", "cp1250"),
    ],
)
def test_letters_tell_the_encoding(text: str, code: str) -> None:
    """Flags are the best of words: where they make sense, the text is what it was taken for."""
    content = text.encode(code)
    begin = next(place for place, byte in enumerate(content) if byte > 127)
    assert encoding.of_letters(content, begin) == code


def test_the_nuls_of_utf_16_are_told_from_others() -> None:
    """Also where most letters have none; NULs here and there are of no encoding."""
    text = "Client;Имя\n1;Щукин Пётр\n2;Яблочкова Ольга\n"
    assert encoding.of_nuls(text.encode("utf-16-le")) == "utf-16-le"
    assert encoding.of_nuls(text.encode("utf-16-be")) == "utf-16-be"
    for other in (b"", b"a", b"\0", b"\0" * 9, b"a,b\0\n1,2\n", text.encode(), text.encode("cp1251")):
        assert encoding.of_nuls(other) == ""


def test_text_without_words_is_some_encoding_or_utf_8() -> None:
    """Whatever bytes there are, the answer is an encoding."""
    for content in (bytes(range(128, 256)), b"\xff", b"\x98" * 1000, b"a\xe9"):
        begin = next(place for place, byte in enumerate(content) if byte > 127)
        assert content.decode(encoding.of_letters(content, begin), "replace")


@pytest.mark.parametrize("name", ["auto", "windows-1251", "CP866", "utf-16-le", "latin-1", "utf-8-sig", "shift_jis"])
def test_an_encoding_is_known_by_any_of_its_names(name: str) -> None:
    """And is called by one in reports."""
    assert values.encoding(values.encoding(name)) == values.encoding(name)


@pytest.mark.parametrize("name", ["rot13", "base64", "idna", "utf-7", "undefined", "unicode_escape", "", "\0", "я"])
def test_what_is_no_encoding_is_refused(name: str) -> None:
    """Also what Python calls a codec."""
    with pytest.raises(ValueError, match="is no encoding"):
        values.encoding(name)
    with pytest.raises(ValueError, match="did you mean 'windows-1251'"):
        values.encoding("windos-1251")
