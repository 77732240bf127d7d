// Mermaid draws the diagrams, in the colors of the window. Without this script, the page shows their source.
mermaid.initialize({
	theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "default",
	// A diagram keeps its size, in which its text can be read: a narrow window scrolls it.
	sequence: { useMaxWidth: false, wrap: true, diagramMarginX: 0, width: 125, actorMargin: 45 },
	gantt: { useMaxWidth: false, useWidth: 720 },
});
