//go:build e2e

package site

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
)

// drawn waits until Mermaid is done with the page, and has the texts of its diagrams, in which lines
// that break have no space.
const drawn = `new Promise((resolve) => {
	const texts = () => [...document.querySelectorAll(".mermaid[data-processed] svg")].map((svg) => svg.textContent);
	const check = () => texts().length === document.querySelectorAll(".mermaid").length ? resolve(texts()) : requestAnimationFrame(check);
	check();
})`

// widest has the number of pixels by which the widest diagram is wider than its frame.
const widest = `Math.max(...[...document.querySelectorAll(".mermaid")].map((frame) => frame.scrollWidth - frame.clientWidth))`

func TestTheSiteDrawsTheDiagrams(t *testing.T) {
	w := openWindow(t)
	w.open("docs/how-it-works.html", chromedp.EmulateViewport(phone, 740))
	diagrams := evaluate[[]string](w, drawn)
	assert.Len(t, diagrams, 2)
	assert.Contains(t, diagrams[0], "one exchange for all of them")
	assert.Contains(t, diagrams[1], "renewal window")
	assert.Positive(t, evaluate[int](w, widest), "a phone scrolls a diagram and does not shrink its text")

	w.do(chromedp.EmulateViewport(desktop, 900))
	assert.LessOrEqual(t, evaluate[int](w, widest), 0, "a desktop shows the whole diagram")
	w.picture("diagrams", "desktop")
	w.assertNothingFromOutside("docs/how-it-works.html")
}
