"""Licences shared by several kinds of images or by several models."""

from __future__ import annotations

from synthgen.common.markdown import markdown
from synthgen.kinds.base import Licence

APACHE_LINK = "https://www.apache.org/licenses/LICENSE-2.0"


def apache(of: str) -> Licence:
    """The program's own licence, for images that it makes from numbers alone.

    It grants whatever rights exist and, unlike a public-domain dedication, waives none in the publisher's name.
    """
    words = markdown(
        "[Apache-2.0]({link}), the licence of {of}.  Whoever publishes the set may state another.",
        link=markdown(APACHE_LINK),
        of=of,
    )
    return Licence(identifier="apache-2.0", name="Apache-2.0", link=APACHE_LINK, terms=(words,))


# Attachment A of the OpenRAIL licences.  Under their paragraph 6 no use of the output may contravene them.
RESTRICTIONS = (
    "In any way that violates any applicable national, federal, state, local or international law or regulation;",
    "For the purpose of exploiting, harming or attempting to exploit or harm minors in any way;",
    "To generate or disseminate verifiably false information and/or content with the purpose of harming others;",
    "To generate or disseminate personal identifiable information that can be used to harm an individual;",
    "To defame, disparage or otherwise harass others;",
    "For fully automated decision making that adversely impacts an individual's legal rights or otherwise creates or"
    " modifies a binding, enforceable obligation;",
    "For any use intended to or which has the effect of discriminating against or harming individuals or groups based"
    " on online or offline social behavior or known or predicted personal or personality characteristics;",
    "To exploit any of the vulnerabilities of a specific group of persons based on their age, social, physical or"
    " mental characteristics, in order to materially distort the behavior of a person pertaining to that group in a"
    " manner that causes or is likely to cause that person or another person physical or psychological harm;",
    "For any use intended to or which has the effect of discriminating against individuals or groups based on legally"
    " protected characteristics or categories;",
    "To provide medical advice and medical results interpretation;",
    "To generate or disseminate information for the purpose to be used for administration of justice, law enforcement,"
    " immigration or asylum processes, such as predicting an individual will commit fraud/crime commitment (e.g. by"
    " text profiling, drawing causal relationships between assertions made in documents, indiscriminate and"
    " arbitrarily-targeted use).",
)


def openrail(*, identifier: str, name: str, link: str) -> Licence:
    """A licence of the OpenRAIL family, whose restrictions go with the images."""
    terms = (
        markdown(
            "The images were drawn by a model under [{name}]({link}).  Its licensor claims no rights in them, but no"
            " use of them may contravene that licence (paragraph 6), which counts models trained on them to perform"
            " like it as its derivatives.  By its Attachment A, you agree not to use the model or its derivatives:",
            name=name,
            link=markdown(link),
        ),
        markdown("\n".join(f"- {text}" for text in RESTRICTIONS)),
        markdown("Pass these restrictions on with the images."),
    )
    return Licence(identifier=identifier, name=name, link=link, terms=terms)


def limited(*, name: str, link: str) -> Licence:
    """A model's own terms, which limit commercial use."""
    words = markdown(
        "The terms of the model that drew the images: [{name}]({link}).  They limit commercial use.",
        name=name,
        link=markdown(link),
    )
    return Licence(identifier="other", name=name, link=link, terms=(words,))


def unknown(model: str, link: str | None) -> Licence:
    """The terms of a model that synthgen does not know."""
    return Licence(
        identifier="other",
        name="unknown",
        link=link,
        terms=(markdown("Unknown: whatever the terms of the model {model} say of its images.", model=model),),
        warning=markdown(
            "The licence of the model {model} is not known to synthgen.  Its terms may bind these images: look them up,"
            " and state them here, before you use or publish the set.",
            model=model,
        ),
    )
