"""Contrast of text on a page, by WCAG 2.1."""

from typing import Any

SCRIPT = """
const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
const lum = c => rgb(c).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
return Math.min(...[...document.querySelectorAll("body *:not(script)")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
  .map(e => { const s = getComputedStyle(e);
    const [a, b] = [lum(e.closest("svg") ? (s.fill === "none" ? "rgb(0,0,0)" : s.fill) : s.color),
                    lum(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); }));
"""


def least_contrast(browser: Any) -> float:
    """The lowest contrast ratio of any text on the page that the browser shows, also within graphics."""
    return float(browser.execute_script(SCRIPT))
