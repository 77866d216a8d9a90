"""Outcome tables by a slow program that shares no code with the launcher: lists, loops, no patterns, all in memory.

It follows the rules of CORe's and BEEP's code, tasks/ in https://github.com/bvanaken/clinical-outcome-prediction and
data/generate_pmv_data.py in https://github.com/allenai/BEEP, sentence by sentence.
"""

import csv
import gzip
import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

SECTIONS = (
    ("CHIEF COMPLAINT", "chief complaint:"),
    ("PRESENT ILLNESS", "present illness:"),
    ("MEDICAL HISTORY", "medical history:"),
    ("MEDICATION ON ADMISSION", "medications on admission:"),
    ("ALLERGIES", "allergies:"),
    ("PHYSICAL EXAM", "physical exam:"),
    ("FAMILY HISTORY", "family history:"),
    ("SOCIAL HISTORY", "social history:"),
)
DEATHS = ("expired", "died", "passed away", "deceased")

Table = list[dict[str, str]]
Rows = dict[str, dict[str, tuple[str, str, str]]]
"""By outcome and number of the admission: split, text, label."""


def read_csv(path: Path) -> Table:
    """A whole table, its columns in upper case and under MIMIC-III's names."""
    names = {"ICD_CODE": "ICD9_CODE", "CHARTTIME": "CHARTDATE"}
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows[0].keys().isdisjoint({"note_id", "icd_version"}):  # MIMIC-III's have both columns of times
        names = {}
    return [{names.get(key.upper(), key.upper()): cell for key, cell in row.items()} for row in rows]


def is_heading(line: str) -> bool:
    """Whether a line begins with a heading: something without digits, dots and the like, and a colon."""
    before, colon, _ = line.partition(":")
    if colon and not before:  # the first character may be a colon itself
        before, colon, _ = line[1:].partition(":")
        before = ":" + before
    return bool(colon) and not any(letter.isdecimal() or letter in "\\|.()" for letter in before)


def section(text: str, heading: str, strict: bool) -> str:
    """What stands below the first heading of that name; empty if that is nothing."""
    start = text.lower().find(heading)
    if start < 0:
        return ""
    start += len(heading)
    for place in range(start if strict else start + 1, len(text)):
        if text[place : place + 2] == "\n\n" and is_heading(text[place + 2 :].split("\n", maxsplit=1)[0]):
            return text[start:place].replace("\n", " ").strip()
    return text[start:].replace("\n", " ").strip() if strict else ""


def text_of(note: str, strict: bool) -> str | None:
    if strict:
        note = "\n".join(line.rstrip(" \t\r") for line in note.split("\n"))
    parts = [(name, section(note, heading, strict)) for name, heading in SECTIONS]
    if strict:
        parts = [(name, text) for name, text in parts if text and not text.startswith("[]")]
    found = dict(parts)
    if not any(found.get(name) for name in ("CHIEF COMPLAINT", "PRESENT ILLNESS", "MEDICAL HISTORY")):
        return None
    return "\n\n".join(f"{name}: {text}" for name, text in parts)


def after_spaces(text: str, place: int) -> int | None:
    """Where white space at a place ends; None if there is none."""
    end = place
    while end < len(text) and text[end].isspace():
        end += 1
    return end if end > place else None


def death_at(text: str, needs_patient: bool) -> tuple[int, int] | None:
    """Where the first mention of the patient's death begins and ends."""
    low = text.lower()
    for start in range(len(low)):
        for who in ("patient", "pt") if needs_patient else ("patient", "pt", ""):
            if not low.startswith(who, start) or (after := after_spaces(low, start + len(who))) is None:
                continue
            for helper in ("had", "has", ""):
                rest = after + len(helper) + bool(helper)
                told = next((word for word in DEATHS if low.startswith(word, rest)), None)
                if told and low.startswith(helper, after) and (not helper or low[rest - 1].isspace()):
                    return start, rest + len(told)
    return None


def without_death_in_part(line: str) -> str:
    """One part of a text without the first mention of death, if it is examination or medication."""
    for name in ("PHYSICAL EXAM:", "MEDICATION ON ADMISSION:"):
        at = line.upper().find(name)
        if at >= 0 and (where := death_at(line[at + len(name) :], needs_patient=False)):
            start, end = (at + len(name) + place for place in where)
            return line[:start] + line[end:]
    return line


def without_death(text: str) -> str | None:
    text = "\n".join(map(without_death_in_part, text.split("\n")))
    told = any(words in text.lower() for words in ("he expired", "pronounced expired", "time of death"))
    return None if told or death_at(text, needs_patient=True) else text


def notes_of(notes: Table, admissions: dict[str, dict[str, str]]) -> dict[str, str]:
    """The joined text of each admission."""
    is_iv = "NOTE_TYPE" in notes[0]
    kept = []
    for note in notes:
        is_summary = note["NOTE_TYPE"] in ("DS", "AD") if is_iv else note["CATEGORY"] == "Discharge summary"
        admission = admissions.get(note["HADM_ID"])
        if admission and admission["ADMISSION_TYPE"] != "NEWBORN" and note["TEXT"] and is_summary:
            kept.append(note)
    kept.sort(key=lambda note: note["CHARTDATE"] or "9999")
    last = {note["TEXT"]: place for place, note in enumerate(kept)}
    kept = [note for place, note in enumerate(kept) if last[note["TEXT"]] == place]
    texts: dict[str, str] = {}
    for number in admissions:
        its = [note for note in kept if note["HADM_ID"] == number]
        if any(note["NOTE_TYPE"] == "DS" if is_iv else note["DESCRIPTION"] == "Report" for note in its):
            each = [note["TEXT"] for note in its]
            if is_iv:
                each = ["\n".join(line.rstrip() for line in text.split("\n")) for text in each]
            texts[number] = "\n\n".join(each).strip()
    return texts


def stay_of(admission: Mapping[str, str]) -> tuple[int, bool]:
    """Class of the stay, and whether it is negative."""
    start, end = (datetime.strptime(admission[name], "%Y-%m-%d %H:%M:%S") for name in ("ADMITTIME", "DISCHTIME"))
    days = Decimal(int((end - start).total_seconds())) / 86_400
    days = days.quantize(Decimal("0.1"), ROUND_HALF_EVEN)
    return sum(days > limit for limit in (3, 7, 14)), days < 0


def group_of(code: str, version: str, is_diagnosis: bool, strict: bool) -> str:
    if version == "10":
        return "10_" + code[:3]
    if is_diagnosis:
        return code[:4] if code[0] in "VE" else code[:3]
    return code[:3] if strict else (code.lstrip("0") or "0")[:3]


def split_of(patient: str, database: str) -> str:
    digest = hashlib.blake2b(f"{database}/{patient}".encode(), digest_size=8).hexdigest()
    share = Decimal(int(digest, 16)) / 2**64
    return "test" if share < Decimal("0.2") else "validation" if share < Decimal("0.3") else "train"


def codes_of(table: Table, is_diagnosis: bool, strict: bool) -> tuple[dict[str, list[str]], str]:
    """Groups of each admission, and the list of all."""
    codes: dict[str, list[str]] = {}
    seen: list[str] = []
    for row in table:
        if row["ICD9_CODE"]:
            group = group_of(row["ICD9_CODE"], row.get("ICD_VERSION", "9"), is_diagnosis, strict)
            for known in (codes.setdefault(row["HADM_ID"], []), seen):
                if group not in known:
                    known.append(group)
    return codes, " ".join(seen)


def ventilated(labels: Table, deaths: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]]:
    """Rows of ventilation, from those of death in hospital."""
    splits = {"train": "train", "val": "validation", "test": "test"}
    its = {label["HADM_ID"]: label for label in labels if label["HADM_ID"] in deaths}
    return {number: (splits[one["SPLIT"]], deaths[number][1], one["LABEL"]) for number, one in its.items()}


def reference(tables: Mapping[str, Path], database: str, rules: str) -> tuple[Rows, dict[str, str]]:
    """Make all rows, and the lists of classes. Admissions with rows that differ are not used."""
    strict = rules == "strict"
    read = {key: read_csv(path) for key, path in tables.items()}
    numbers = [row["HADM_ID"] for row in read["admissions"]]
    admissions = {row["HADM_ID"]: row for row in read["admissions"] if numbers.count(row["HADM_ID"]) == 1}
    rows: Rows = {key: {} for key in ("los", "mor", "diag", "proc")}
    codes, classes = {}, {}
    for outcome, key in (("diag", "diagnoses"), ("proc", "procedures")):
        codes[outcome], classes[outcome] = codes_of(read[key], outcome == "diag", strict)
    for number, note in notes_of(read["notes"], admissions).items():
        text, admission = text_of(note, strict), admissions[number]
        if text is None:
            continue
        split, (stay, is_negative) = split_of(admission["SUBJECT_ID"], database), stay_of(admission)
        if admission["HOSPITAL_EXPIRE_FLAG"] == "0" and not (strict and is_negative):
            rows["los"][number] = split, text, str(stay)
        for outcome, its in codes.items():
            if number in its:
                rows[outcome][number] = split, text, ",".join(its[number])
        if (silent := without_death(text)) is not None:
            rows["mor"][number] = split, silent, admission["HOSPITAL_EXPIRE_FLAG"]
    rows["pmv"] = ventilated(read.get("ventilation", []), rows["mor"])
    return rows, classes
