"""Parts of the page as HTML: what is judged, seen and read, in the words of one language."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
from PIL import Image

from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.explain.figures import overlay
from hf_deepfake.pages import data_address
from hf_deepfake.printing import printable
from hf_deepfake.serving.facts import FileFacts
from hf_deepfake.serving.words import Words

_SIGNS = {"real": "✓", "fake": "✕", "uncertain": "?"}


def verdict_html(details: Mapping[str, Any], facts: FileFacts, words: Words) -> str:
    """The verdict, its probability as a number, in words and as a bar, and what it is worth."""
    label = details["label"]
    lines = [_probability(details, words), _limits(details, words)]
    lines += [words.several_frames] if facts.several else []
    return (
        f'<section class="verdict {label}"><h2><span aria-hidden="true">{_SIGNS[label]}</span> {words.verdicts[label]}</h2>'
        f"{_scale(details['prob_fake'], words, details['threshold'])}{_paragraphs(lines)}"
        f'<p class="note">{words.no_proof}</p></section>'
    )


def _probability(details: Mapping[str, Any], words: Words) -> str:
    prob_fake = details["prob_fake"]
    if details["voting"] == "hard":
        return words.share_of_votes.format(percent=percent(prob_fake))
    chance = words.chance.format(percent=percent(prob_fake), chance=chance_in_words(prob_fake, words))
    return f"<strong>{chance}</strong> {words.of_hundred.format(count=round(100 * prob_fake))}"


def _limits(details: Mapping[str, Any], words: Words) -> str:
    low, high = map(percent, details.get("uncertain_band", [0, 0]))
    if low == high:
        return words.threshold.format(percent=percent(details["threshold"]))
    return words.band.format(low=low, high=high)


def chance_in_words(prob_fake: float, words: Words) -> str:
    """A probability as a person would say it.

    Example:
        >>> from hf_deepfake.serving.words import ENGLISH
        >>> chance_in_words(0.99, ENGLISH), chance_in_words(0.5, ENGLISH)
        ('almost certainly fake', 'little more than a guess')
    """
    return next(chance for least, chance in words.chances.items() if 100 * prob_fake >= least)


def percent(share: float) -> str:
    """A share that is never rounded to certainty.

    Example:
        >>> percent(0.5), percent(0.9999), percent(0.0001)
        ('50 %', '> 99 %', '< 1 %')
    """
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{share:.0%}".replace("%", " %")


def _scale(prob_fake: float, words: Words, threshold: float) -> str:
    """A scale from real to fake with the probability and the threshold, which the words below it say too."""
    ends = f"<span>{words.labels['real']}</span><span>{words.labels['fake']}</span>"
    return f'<div aria-hidden="true"><div class="ends">{ends}</div>{_bar(prob_fake, threshold)}</div>'


def _bar(prob_fake: float, threshold: float | None = None) -> str:
    mark = f'<i style="left:{threshold:.1%}"></i>' if threshold is not None else ""
    return f'<div class="bar" aria-hidden="true">{mark}<b style="left:{prob_fake:.1%}"></b></div>'


def _probability_cell(details: Mapping[str, Any]) -> str:
    return f"{_bar(details['prob_fake'])} {percent(details['prob_fake'])}"


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{line}</p>" for line in lines)


def refusal_html(reason: str) -> str:
    """Why there is no verdict."""
    return f'<section class="verdict refused"><p>{escape(reason)}</p></section>'


def hint_html(text: str) -> str:
    """What is to be done, or is being done."""
    return f'<p class="hint">{escape(text)}</p>'


def members_html(details: Mapping[str, Any], words: Words) -> str:
    """Every member's vote."""
    members = details["members"]
    rows = [
        [
            escape(printable(member["name"])),
            _label(member["label"], words),
            _probability_cell(member),
            percent(member["weight"]),
        ]
        for member in members
    ]
    agreeing = round(details["agreement"] * len(members))
    agreement = words.agreement.format(agreeing=agreeing, all=len(members))
    columns = [words.member, words.says, words.probability_of_fake, words.weight]
    return _section(words.members, agreement, _table(columns, rows))


def _label(label: str, words: Words) -> str:
    return f'<span class="label {label}"><span aria-hidden="true">{_SIGNS[label]}</span> {words.labels[label]}</span>'


def _section(title: str, note: str, body: str) -> str:
    return f'<section class="part"><h3>{title}</h3><p class="note">{note}</p>{body}</section>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def robustness_html(judged: Mapping[str, Mapping[str, Any]], words: Words) -> str:
    """Verdicts of a picture as it is and as it was changed, by the name to show."""
    rows = [[name, _label(details["label"], words), _probability_cell(details)] for name, details in judged.items()]
    holds = len({details["label"] for details in judged.values()}) == 1
    found = f'<p class="{"holds" if holds else "flips"}">{words.holds if holds else words.flips}</p>'
    columns = [words.version, words.column_verdict, words.probability_of_fake]
    return _section(words.changed, words.changed_note, found + _table(columns, rows))


def facts_html(facts: FileFacts, words: Words) -> str:
    """What the file says of itself."""
    stated = {
        words.format: facts.format,
        words.size: f"{facts.width} x {facts.height}, {max(1, round(facts.bytes / 1000)):,} kB",
        words.camera: facts.camera,
        words.software: facts.software,
        words.date: facts.date,
        words.place: words.place_present if facts.has_place else "",
        words.credentials: _credentials(facts, words),
    }
    entries = "".join(f"<dt>{name}</dt><dd>{escape(value) or words.not_stated}</dd>" for name, value in stated.items())
    return _section(words.file, words.file_note, f"<dl>{entries}</dl>")


def _credentials(facts: FileFacts, words: Words) -> str:
    parts = [words.credential_states[facts.credentials]]
    parts += [words.signed_by.format(signer=facts.signer)] if facts.signer else []
    return "; ".join(parts) + (f". {words.says_made_by_ai}" if facts.says_made_by_ai else "")


def heatmap_html(image: Image.Image, explanation: Explanation, words: Words) -> str:
    """A heatmap, and what its colours mean."""
    label = words.labels[explanation.target]
    buffer = io.BytesIO()
    overlay(image, explanation).save(buffer, "JPEG", quality=90)
    address = data_address(buffer.getvalue(), "jpeg")
    return (
        f'<figure><img src="{address}" alt="{words.heatmap_alt.format(label=label)}">'
        f"<figcaption>{words.legend.format(label=label)}</figcaption></figure>"
    )


def worth_html(measured: Faithfulness, words: Words) -> str:
    """Whether a heatmap can be believed."""
    if measured.better_than_random:
        return f'<p class="holds">{words.better_than_random}</p>'
    return f'<p class="flips">{words.no_better_than_random}</p>'


def batch_html(table: pd.DataFrame, words: Words) -> str:
    """A table with the columns of `hf-deepfake predict`, and the same as a CSV file to download, which is stored nowhere."""
    counts = table["label"].value_counts()
    summary = words.batch_summary.format(
        count=len(table),
        failed=int(table["error"].notna().sum()),
        **{label: int(counts.get(label, 0)) for label in words.labels},
    )
    rows = [
        [
            escape(printable(row.image)),
            _label(row.label, words) if row.label else "-",
            percent(row.prob_fake) if row.label else "-",
            escape(row.error or ""),
        ]
        for row in table.itertuples()
    ]
    columns = [words.column_file, words.column_verdict, words.probability_of_fake, words.column_problem]
    content = base64.b64encode(table.to_csv(index=False).encode("utf-8-sig")).decode("ascii")
    link = f'<a class="button" download="verdicts.csv" href="data:text/csv;base64,{content}">{words.download}</a>'
    return f'<p role="status">{summary}</p>{link}{_table(columns, rows)}'
