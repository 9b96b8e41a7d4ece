"""What the card says, section by section: the variables of model_cards/base.md.jinja, as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hub_fusion.errors import RecipeError
from hub_fusion.publish.card_likelihoods import likelihood_table
from hub_fusion.publish.card_scores import Standing
from hub_fusion.publish.front_matter import sane_root
from hub_fusion.publish.markdown import (
    COMMIT,
    REPO,
    account_link,
    code,
    duration,
    fence,
    link,
    md,
    percent,
    repo_link,
    table,
)
from hub_fusion.publish.notices import NOTICE
from hub_fusion.recipe import Recipe
from hub_fusion.recipe.license_names import naming_fault, notice
from hub_fusion.records import Credit, Generation, Index
from hub_fusion.weights.remote import ADAPTER

PAPER = "[ColD Fusion](https://arxiv.org/abs/2212.01378)"
AUTO_CLASSES = {"text-generation": "AutoModelForCausalLM"}  # these have no task head that a fuse could drop
RECIPE_CHARACTERS = 20_000
THANKED = 200  # names
NAMED = 20  # tokens
CITATION = """\
@inproceedings{don-yehiya-etal-2023-cold,
    title = "{C}ol{D} Fusion: Collaborative Descent for Distributed Multitask Finetuning",
    author = "Don-Yehiya, Shachar and Venezian, Elad and Raffel, Colin and Slonim, Noam and Choshen, Leshem",
    booktitle = "Proceedings of the 61st Annual Meeting of the Association for Computational Linguistics",
    year = "2023",
    url = "https://aclanthology.org/2023.acl-long.46/",
    doi = "10.18653/v1/2023.acl-long.46",
    pages = "788--806"
}"""


class Facts:
    """A record, said in Markdown; what a section has nothing to say about is ""."""

    def __init__(self, record: Generation, index: Index, endpoint: str, pipeline_tag: str | None) -> None:
        self.record, self.index, self.endpoint, self.pipeline_tag = record, index, endpoint.rstrip("/"), pipeline_tag
        self.standing = Standing(record, index)
        try:
            self.recipe: Recipe | None = Recipe.from_text(record.recipe)
        except RecipeError:
            self.recipe = None

    def sections(self) -> dict[str, Any]:
        """The template's variables."""
        record, standing = self.record, self.standing
        history, older = standing.history()
        return {
            "title": md(record.base),
            "generation": record.generation,
            "tag": record.tag,
            "parent": standing.parent,
            "banner": self.banner(),
            "summary": self.summary(),
            "result": standing.result(),
            "snippet": self.snippet(),
            "pinned": self.pinned(),
            "history": history,
            "older": older,
            "history_note": standing.note(),
            "tasks": standing.tasks(),
            "heads": self.heads(),
            "likelihoods": likelihood_table(record),
            "credits": self.credits(),
            "refused": self.refused(),
            "thanks": self.thanks(),
            "method": self.method(),
            "recipe": fence(self.recipe_text(), "yaml") if record.recipe.strip() else "",
            "limits": self.limits(),
            "provenance": self.provenance(),
            "files": table(["File", "sha256"], [[code(f), code(s)] for f, s in sorted(record.weights.items())]),
            "contribute": self.contribute(),
            "citation": fence(CITATION, "bibtex"),
        }

    def banner(self) -> str:
        if self.record.status != "yanked":
            return withdrawn_notice(self.index, self.record.generation)
        return (
            f"**Withdrawn.** Do not start from {self.record.tag}; its tag and number stay, {code('main')} has moved on."
        )

    def summary(self) -> str:
        record, root = self.record, sane_root(self.record)
        start = f"Generation {record.generation} of a community base grown"
        if root:
            start += f" from {repo_link(root, endpoint=self.endpoint)}"
        given = ""
        if record.contributions:
            authors = len({c.author for c in record.contributions})
            given = f": {count(len(record.contributions), 'contribution')} by {count(authors, 'account')}"
            given += f" fused into {self.standing.parent}" if self.standing.parent else ""
        return f"{start} by {PAPER}{given}, published {record.created_at:%Y-%m-%d}."

    def snippet(self) -> str:
        name = AUTO_CLASSES.get(self.pipeline_tag or "", "AutoModel")
        base, tag = json.dumps(self.record.base), json.dumps(self.record.tag)
        if ADAPTER in self.record.weights:
            calls = f'model = {name}.from_pretrained({base}, revision="gen-0")\n'
            calls += f"model = PeftModel.from_pretrained(model, {base}, revision={tag})"
            return fence(f"from peft import PeftModel\nfrom transformers import {name}\n\n{calls}", "python")
        call = f"model = {name}.from_pretrained({base}, revision={tag})"
        return fence(f"from transformers import {name}\n\n{call}", "python")

    def pinned(self) -> str:
        record = self.record
        entry = next((e for e in self.index.generations if e.generation == record.generation), None)
        at = f", commit {code(entry.revision)}" if entry and entry.revision else ""
        text = f"The tag {code(record.tag)}{at} and this card at it stay as they are; "
        text += f"{code('main')} moves on to newer generations."
        if self.recipe and self.recipe.merge.heads == "drop" and self.pipeline_tag not in AUTO_CLASSES:
            text += " Task heads are not part of a base: a class with a head starts with a new one, to be finetuned."
        return text

    def heads(self) -> str:
        """How to use it on tasks that it was grown from, and how good it is there."""
        heads = [head for head in self.record.heads if head.task]
        if not heads:
            return ""
        base, task, tag = (json.dumps(n) for n in (self.record.base, (heads[0].task or "")[:64], self.record.tag))
        call = f"from hub_fusion import load_head\n\nload_head({base}, {task}, revision={tag}).predict(inputs)"
        rows = [[md(h.task or ""), f"{percent(h.mean)} ({percent(h.low)} to {percent(h.high)})", str(h.examples)]
                for h in heads]  # fmt: skip
        text = "To use it on tasks that contributors trained on: logistic regression on the frozen body of this "
        text += "generation. That says how much of a task it holds, not how good a base it is. Accuracy in percent:"
        return f"{text}\n\n{table(['Task', 'Accuracy', 'Examples'], rows)}\n\n{fence(call, 'python')}"

    def credits(self) -> str:
        headers = [
            "Contribution",
            "By",
            "Task",
            "Data sets",
            "Licence",
            "Kind",
            "Started from",
            "Weight",
            "Cosine",
            "Capped",
        ]
        return table(headers, [self._credit(credit) for credit in self.record.contributions])

    def _credit(self, credit: Credit) -> list[str]:
        return [
            repo_link(credit.repo, credit.sha, self.endpoint),
            account_link(credit.author, self.endpoint),
            md(credit.task or ""),
            ", ".join(md(name, 60) for name in credit.datasets[:5]) + (", …" if len(credit.datasets) > 5 else ""),
            md(credit.license or "", 40),
            credit.relation,
            "" if credit.generation is None else f"gen-{credit.generation}",
            "" if credit.weight is None else f"{credit.weight:.3f}",
            "" if credit.cosine is None else f"{credit.cosine:.2f}".replace("-", "−"),
            f"to {percent(credit.scale)} %" if credit.clipped else "",
        ]

    def refused(self) -> str:
        codes = Counter(self.record.refused_by_code)
        if not codes:
            return ""
        reasons = ", ".join(f"{md(name.replace('_', ' '), 40)} {n}" for name, n in codes.most_common(20))
        check = f"{code('hub-fusion check')} tells the author of each why, and what to do about it."
        return f"Considered and not used: {sum(codes.values())} ({reasons}). {check}"

    def thanks(self) -> str:
        entries = [e for e in self.index.generations if (e.generation or 0) < self.record.generation]
        authors = {c.author for c in self.record.contributions} | {a for e in entries for a in e.authors}
        authors |= set(self.index.contributors)
        if not authors:
            return ""
        names = [account_link(name, self.endpoint) for name in sorted(authors, key=lambda a: (a.lower(), a))]
        more = f" and {len(names) - THANKED} more" if len(names) > THANKED else ""
        text = f"Thanks to everybody in this lineage: {', '.join(names[:THANKED])}{more}. "
        return text + "The tag `no-fusion` on a model keeps it out of all later generations."

    def method(self) -> str:
        record = self.record
        if not record.contributions:
            return ""
        capped = sum(credit.clipped for credit in record.contributions)
        text = "A contribution's task vector is its weights minus those of the generation it started from. "
        text += (
            f"{count(capped, 'vector')} far longer than the others {'was' if capped == 1 else 'were'} shortened. "
            if capped
            else ""
        )
        text += f"The vectors were merged by the method {code(record.method)}, and "
        text += "the result" if record.step == 1 else f"{100 * record.step:.4g} % of the result"
        return f"{text} was added to {self.standing.parent or 'the base'} ({PAPER}).{self._tokens()} The recipe:"

    def _tokens(self) -> str:
        """The tokens that its parent has not, and who brought them."""
        tokens = self.record.tokens
        if not tokens:
            return ""
        named = [f"{code(t.content, 40)} by {', '.join(md(key.partition('@')[0], 97) for key in list(t.rows)[:3])}"
                 for t in tokens[:NAMED]]  # fmt: skip
        more = f", and {len(tokens) - NAMED} more" if len(tokens) > NAMED else ""
        return f" The tokenizer has {count(len(tokens), 'new token')}: {'; '.join(named)}{more}."

    def recipe_text(self) -> str:
        text = self.record.recipe
        if len(text) <= RECIPE_CHARACTERS:
            return text
        return text[:RECIPE_CHARACTERS] + f"\n# … the rest is in fusion/gen-{self.record.generation}.json"

    def limits(self) -> list[str]:
        sentences = (
            ["Made as a starting point for finetuning; measured as such, on the tasks above only."]
            if self.standing.note() or likelihood_table(self.record)
            else ["Made as a starting point for finetuning; not measured."]
        )
        worse = self.standing.worse()
        if worse:
            sentences.append(f"Worse than {self.standing.parent} on {', '.join(map(md, worse))}.")
        seen = self.standing.seen_in_training()
        if seen:
            tasks = ", ".join(map(md, seen))
            sentences.append(f"Contributions were trained on data of these tasks, so their scores flatter: {tasks}.")
        sentences.append("Carries over the biases of everything it was made from. Bias and safety were not evaluated.")
        if self.record.contributions:
            sentences.append("What contributors say about their tasks, data and licences was not verified.")
        return sentences

    def license(self, license: str | None) -> str:
        if not license:
            return ""
        said = [f"{code(license)}."]
        if self.recipe and self.recipe.contributions.resulting_license:
            said.append("The recipe takes contributions under stricter licences than the base had, up to this one; "
                        "earlier generations keep theirs.")  # fmt: skip
        if shown := notice(license):
            said.append(f"{shown}.")
        if fault := naming_fault(license, self.record.base):
            said.append(f"To mend: {md(fault)}.")
        if self.record.contributions:
            said.append("What each contribution's card declared at its commit is in the table above; "
                        f"{code(NOTICE)} names all that went into this lineage.")  # fmt: skip
        return " ".join(said)

    def provenance(self) -> str:
        record, path = self.record, f"fusion/gen-{self.record.generation}.json"
        rows = [["Record", self._file(path, record.tag)]]
        if record.parent_revision and COMMIT.fullmatch(record.parent_revision):
            at = self._file(record.parent_revision, record.parent_revision, kind="tree")
            rows.append(["Parent", " at ".join(filter(None, [self.standing.parent, at]))])
        if any(entry.generation == 0 for entry in self.index.generations):
            rows.append(["Card of gen-0", self._file("README.md", "gen-0")])
        rows.append(["Attempt", code(record.id)])
        rows.append(["Versions", ", ".join(f"{md(name)} {md(v)}" for name, v in sorted(record.versions.items()))])
        rows.append(["Hardware", ", ".join(f"{md(name)}: {md(v)}" for name, v in record.hardware.items())])
        stages = ", ".join(f"{md(name)} {duration(s)}" for name, s in record.seconds.items() if s >= 1)
        rows.append(["Wall time", f"{duration(sum(record.seconds.values()))} ({stages})" if stages else ""])
        return table(["", "This generation"], [row for row in rows if row[1]])

    def _file(self, path: str, revision: str | None, kind: str = "blob") -> str:
        """A link to a file of the base (kind "tree": to a revision); just its name if the base has no address."""
        if not REPO.fullmatch(self.record.base):
            return md(path)
        address = f"{self.endpoint}/{self.record.base}/{kind}/{revision}"
        return link(path, address if kind == "tree" else f"{address}/{path}")

    def contribute(self) -> str:
        base, tag = json.dumps(self.record.base), json.dumps(self.record.tag)
        lines = [
            "from hub_fusion import ContributeCallback",
            f"trainer.add_callback(ContributeCallback({base}, revision={tag}))",
            "trainer.push_to_hub()",
        ]
        check = fence("hub-fusion check your-name/your-finetune", "bash")
        return f"{fence(chr(10).join(lines), 'python')}\n\n{check}"


def withdrawn_notice(index: Index, generation: int) -> str:
    """That generations after this one were withdrawn and main has its weights again; "" if that is not so."""
    later = [e for e in index.generations if (e.generation or 0) > generation]
    if not later or any(e.status != "yanked" for e in later):
        return ""
    told = ", ".join(f"gen-{e.generation} ({md(e.reason, 200)})" for e in later[-5:])
    return f"**Back at gen-{generation}.** {code('main')} has its weights again. No longer to be started from: {told}."


def count(n: int, noun: str) -> str:
    """``1 account``, ``2 accounts``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
